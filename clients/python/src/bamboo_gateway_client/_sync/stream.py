# Made from _async/stream.py by tools/sync_from_async.py. Do not edit: `make clients`.
"""Event streams that reconnect by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from bamboo_gateway_client._sync.pause import hang_up
from bamboo_gateway_client._sync.pause import pause as wait
from bamboo_gateway_client.errors import ProblemError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Awaitable, Callable, Mapping

    import httpx

    from bamboo_gateway_client._sync.transport import Transport
    from bamboo_gateway_client.streaming import StreamState

E = TypeVar("E")


class EventStream(Generic[E]):
    """Iterates over the events of a stream, each once and in order, over any number of connections.

    A connection that breaks, or that is silent for longer than the heartbeats allow, is opened
    again behind the last event. The iteration ends when the gateway says that nothing more will
    come. As a context manager it closes its connection at the end of the block, also after a
    `break`.

    Attributes:
        state: What it knows; `position` and `goodbye` are those of it.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        params: Mapping[str, Any],
        state: StreamState,
        *,
        pause: Callable[[float], None] = wait,
    ) -> None:
        self.state = state
        self._transport = transport
        self._path = path
        self._params = dict(params)
        self._pause = pause
        self._response: httpx.Response | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the stream and its connection; a loop elsewhere that waits for an event ends."""
        self.state.ended = True
        if self._response is not None:
            hang_up(self._response)

    @property
    def position(self) -> str | None:
        """The position behind the last event, with which another stream goes on (`after`)."""
        return self.state.position

    @property
    def goodbye(self) -> str | None:
        """Why the gateway ended the stream for good, if it did."""
        return self.state.goodbye

    def __iter__(self) -> Iterator[E]:
        state = self.state
        while state.goes_on():
            try:
                with self._transport.open(
                    "GET",
                    self._path,
                    params=state.params(self._params),
                    headers={"Accept": "text/event-stream", **state.headers()},
                    silence_seconds=self._transport.silence_seconds,
                ) as response:
                    self._response = response
                    if state.connected(
                        response.status_code, response.headers.get("Content-Type", "")
                    ):
                        for chunk in response.iter_bytes():
                            for event in state.feed(chunk):
                                yield cast("E", event)
                            if not state.goes_on() or state.dropped:
                                break
                        else:
                            state.closed()
            except (UnreachableError, ProblemError) as failure:
                if not state.goes_on():
                    break
                seconds = state.lost(failure, reached=self._transport.reached)
            else:
                if not state.goes_on():
                    break
                seconds = state.pause()
            finally:
                self._response = None
            self._pause(seconds)

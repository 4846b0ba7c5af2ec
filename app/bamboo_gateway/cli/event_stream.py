"""A session's events for a command: the client's stream, with lines about lost connections."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from bamboo_gateway.cli.client import GatewayClient, command_errors
from bamboo_gateway_client import EventStream as ClientStream
from bamboo_gateway_client import StreamHooks


class Received(NamedTuple):
    """One event of the log, or a `reset`.

    Attributes:
        position: Its position in the log.
        event: The decoded JSON object.
        data: The same as JSON text, as it was received.
    """

    position: str
    event: dict[str, Any]
    data: str


def hooks(notify: Callable[[str], None], on_idle: Callable[[], None] | None = None) -> StreamHooks:
    """Return functions that tell people about the connection.

    Args:
        notify: Receives a line when the connection is lost or found again, and when the gateway
            ends one session's part of a stream.
        on_idle: Is called when the first connection finds no active run.
    """
    is_first = True

    def opened(event: dict[str, Any]) -> None:
        nonlocal is_first
        # What a later connection finds was shown as events.
        if is_first and on_idle is not None and event.get("active_run_id") is None:
            on_idle()
        is_first = False

    return StreamHooks(
        lost=lambda reason, seconds: notify(
            f"connection lost ({reason}); trying again in {seconds:.1f} s"
        ),
        found=lambda position: notify(f"connected again, going on after {position or 'the start'}"),
        opened=opened,
        left=lambda session, reason: notify(
            f"The gateway ended the stream of {session}: {reason}."
        ),
    )


class Events:
    """Iterates over the events of a stream, each once and in order.

    It passes `reset` on, because the caller then has to load again what it has shown. The iteration
    ends when the gateway announces that nothing more will come.

    Args:
        stream: The client's stream, which reconnects when the connection is lost.
    """

    def __init__(self, stream: ClientStream[Any]) -> None:
        self._stream = stream

    @property
    def position(self) -> str | None:
        """The position of the last frame; None before the first one."""
        return self._stream.position

    @property
    def goodbye(self) -> str | None:
        """Why the gateway ended the stream for good, if it did."""
        return self._stream.goodbye

    def __iter__(self) -> Iterator[Received]:
        with command_errors():
            for event in self._stream:
                yield Received(self._stream.position or "", event, self._stream.state.data)


class EventStream(Events):
    """The events of a session.

    Args:
        client: The gateway.
        session_id: The session to follow.
        after: The position to begin after; None begins where the gateway chooses.
        run_id: The run that `until_complete` waits for.
        until_complete: Whether the stream ends with a run's terminal event.
        notify: Receives a line for people when the connection is lost or found again.
        on_idle: Is called when the first connection finds no active run.
    """

    def __init__(
        self,
        client: GatewayClient,
        session_id: str,
        *,
        after: str | None = None,
        run_id: str | None = None,
        until_complete: bool = False,
        notify: Callable[[str], None],
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        session = client.gateway.session(session_id)
        stream = session.stream(
            after=after,
            run_id=run_id,
            until_complete=until_complete,
            hooks=hooks(notify, on_idle),
        )
        super().__init__(stream)

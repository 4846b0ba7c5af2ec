"""The events of several sessions over one connection, and the changes of all sessions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import override

from bamboo_gateway.cli.client import GatewayClient
from bamboo_gateway.cli.event_stream import EventStream


class JointEventStream(EventStream):
    """Iterates over the events of several sessions; `position` is the cursor in all of them.

    Args:
        client: The gateway.
        sessions: The sessions to follow.
        after: The cursor to begin after; `0` begins before the first event of each session.
        notify: Receives a line for people when something happens to the connection.
    """

    def __init__(
        self,
        client: GatewayClient,
        sessions: Sequence[str],
        *,
        after: str | None,
        notify: Callable[[str], None],
    ) -> None:
        super().__init__(client, sessions[0], after=after if after != "0" else None, notify=notify)
        self._path = "/stream"
        self._params["session_id"] = list(sessions)
        if after == "0":
            self._params["from"] = "start"
        self._left: set[str] = set()

    @override
    def _leaves(self, goodbye: dict[str, Any]) -> bool:
        if goodbye.get("retry", True):
            return True  # this session goes on over a new connection, and so do the others
        session = goodbye["session_id"]
        if session not in self._left:
            self._left.add(session)
            self._notify(f"The gateway ended the stream of {session}: {goodbye['reason']}.")
        self._ended = self._left.issuperset(self._params["session_id"])
        return self._ended


class ChangeEvents(EventStream):
    """Iterates over the changes of sessions; `position` is the cursor behind the last one.

    Args:
        client: The gateway.
        filters: The query parameters that narrow what is told.
        after: The cursor to begin after.
        notify: Receives a line for people when something happens to the connection.
    """

    def __init__(
        self,
        client: GatewayClient,
        filters: Mapping[str, str | None],
        *,
        after: str | None,
        notify: Callable[[str], None],
    ) -> None:
        super().__init__(client, "", after=after, notify=notify)
        self._path = "/changes"
        self._params |= {name: value for name, value in filters.items() if value is not None}

"""The events of several sessions over one connection, and the changes of all sessions."""

from collections.abc import Callable, Mapping, Sequence

from bamboo_gateway.cli.client import GatewayClient
from bamboo_gateway.cli.event_stream import Events, hooks


class JointEventStream(Events):
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
        from_start = after == "0"
        super().__init__(
            client.gateway.stream(
                sessions,
                after=None if from_start else after,
                from_start=from_start,
                hooks=hooks(notify),
            )
        )


class ChangeEvents(Events):
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
        super().__init__(client.gateway.changes(after=after, hooks=hooks(notify), **filters))

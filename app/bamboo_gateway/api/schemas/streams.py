"""Streams: their events, which are the log's and four more, and their connections."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from bamboo_gateway.api.schemas.events import LogEvent
from bamboo_gateway.api.schemas.fields import Answer, Described, DescribedUnion


class OpenEvent(Described):
    """The first event of every stream: where it begins. It is not in the log."""

    type: Literal["open"]
    session_id: str
    connection_id: Annotated[str, Field(description="The connection's name, for `/reconnect`.")]
    position: str
    active_run_id: str | None


class HeartbeatEvent(Described):
    """Nothing has happened. Only with `heartbeat=event`; it is not in the log."""

    type: Literal["heartbeat"]


class ResetEvent(Described):
    """The client's position cannot be served exactly. It is not in the log.

    Load `/messages` again. The stream goes on from `position` by itself.
    """

    type: Literal["reset"]
    reason: Literal["unknown_position", "epoch_changed"]
    position: str


class GoodbyeEvent(Described):
    """The last event, when the gateway ends a stream. It is not in the log."""

    type: Literal["goodbye"]
    reason: Literal[
        "shutdown", "superseded", "deleted", "closed", "slow", "lifetime", "unauthorized"
    ]
    retry: Annotated[bool, Field(description="Whether a reconnect may succeed.")]


class StreamEvent(
    DescribedUnion[
        Annotated[
            LogEvent | OpenEvent | HeartbeatEvent | ResetEvent | GoodbyeEvent,
            Discriminator("type"),
        ]
    ]
):
    """The `data` of one frame of a stream: an event of the log, or one of the stream itself."""


class StreamFrame(Described):
    """One frame of a stream (Server-Sent Events). There is never an `event` line."""

    id: Annotated[
        str, Field(description="A position: a client reconnects with the last one it has seen.")
    ] = ""
    retry: Annotated[
        int, Field(description="Milliseconds to wait before a reconnect; only in the first frame.")
    ] = 0
    data: Annotated[
        str,
        Field(
            description="A `StreamEvent` as JSON.",
            json_schema_extra={
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/StreamEvent"},
            },
        ),
    ]


class JointStreamFrame(Described):
    """One frame of a stream of several sessions. There is never an `event` line."""

    id: Annotated[
        str,
        Field(
            description="The positions in all sessions, as one text that a client sends back: in "
            "`Last-Event-ID`, or in `after`."
        ),
    ]
    retry: Annotated[
        int, Field(description="Milliseconds to wait before a reconnect; only in the first frame.")
    ] = 0
    data: Annotated[
        str,
        Field(
            description="A `StreamEvent` as JSON, with the `session_id` of its session. Only a "
            "`heartbeat` has none.",
            json_schema_extra={
                "contentMediaType": "application/json",
                "contentSchema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/StreamEvent"},
                        {"properties": {"session_id": {"type": "string"}}},
                    ]
                },
            },
        ),
    ]


class Connection(Answer):
    """An open stream."""

    connection_id: str
    session_id: str
    since: str
    position: str
    lag_events: int
    remote_address: str | None


class ConnectionPage(Answer):
    """The open streams of a session."""

    connections: list[Connection]
    next_cursor: str | None
    has_more: bool

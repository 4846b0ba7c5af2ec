"""Changes: which sessions have changed, in pages and as a stream."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field

from bamboo_gateway.api.schemas.fields import Answer, Described, DescribedUnion
from bamboo_gateway.api.schemas.streams import GoodbyeEvent, HeartbeatEvent
from bamboo_gateway.domain.sessions import SessionState


class SessionChanged(Answer):
    """A session has changed, and is now as described here."""

    type: Literal["session_changed"]
    session_id: str
    position: Annotated[str, Field(description="The end of its log.")]
    state: SessionState
    title: str | None
    preview: Annotated[str | None, Field(description="The beginning of its last message.")]
    updated_at: str
    active_run_id: str | None


class SessionGone(Answer):
    """The session was deleted, you may not read it any more, or it has left the filter."""

    type: Literal["session_gone"]
    session_id: str


class ChangesReset(Answer):
    """The cursor cannot be served: list the sessions again, and go on from the answer's `next`."""

    type: Literal["reset"]
    reason: Literal["unknown_position"]


class ChangePage(Answer):
    """Which sessions have changed after the cursor; each with its last state only."""

    changes: list[Annotated[SessionChanged | SessionGone | ChangesReset, Discriminator("type")]]
    next: Annotated[str, Field(description="The `after` of the next request.")]
    has_more: bool


class ChangesOpen(Described):
    """The first event of a stream of changes. Its `id` is where the stream begins."""

    type: Literal["open"]
    connection_id: str


class ChangeEvent(
    DescribedUnion[
        Annotated[
            SessionChanged
            | SessionGone
            | ChangesReset
            | ChangesOpen
            | HeartbeatEvent
            | GoodbyeEvent,
            Discriminator("type"),
        ]
    ]
):
    """The `data` of one frame of a stream of changes."""


class ChangeFrame(Described):
    """One frame of a stream of changes. There is never an `event` line."""

    id: Annotated[str, Field(description="The cursor behind this frame.")]
    retry: Annotated[
        int, Field(description="Milliseconds to wait before a reconnect; only in the first frame.")
    ] = 0
    data: Annotated[
        str,
        Field(
            description="A `ChangeEvent` as JSON.",
            json_schema_extra={
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/ChangeEvent"},
            },
        ),
    ]

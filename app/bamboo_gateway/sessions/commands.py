"""The arguments and answers of `SessionManager`, as plain frozen types.

`answers` has the answers that are JSON objects. Other JSON-shaped values (`dict`, and `bytes` of
stored JSON) are in the contract's shapes.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.messages import Role
from bamboo_gateway.domain.positions import After, Position
from bamboo_gateway.domain.sessions import SessionType
from bamboo_gateway.domain.views import RunView, SessionView
from bamboo_gateway.storage.reports import METADATA_FILTERS_MAX, SearchQuery, SessionQuery

__all__ = [
    "METADATA_FILTERS_MAX",
    "Chat",
    "EventPage",
    "Idempotency",
    "MessagePage",
    "NewMessage",
    "NewSession",
    "OnBusy",
    "Outcome",
    "Regenerate",
    "RunList",
    "RunWait",
    "SearchQuery",
    "SessionDetail",
    "SessionList",
    "SessionQuery",
    "StreamRequest",
]

OnBusy = Literal["enqueue", "reject", "interrupt"]


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's promise that a repeat is the same request.

    Attributes:
        key: The `Idempotency-Key` as sent.
        route: What it is used on, without the session: `POST /chat`.
        body_digest: A digest of the body; the same key with another one is refused.
    """

    key: str
    route: str
    body_digest: str


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message that a client sends. The gateway makes the `id` unless the client names one."""

    role: Role
    content: str | list[dict[str, Any]]
    id: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    model: str | None = None
    usage: dict[str, int] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewSession:
    """The session to create. Without `id` the gateway makes one, or derives it from the key."""

    id: str | None = None
    user_id: str | None = None
    title: str | None = None
    session_type: SessionType = "user"
    working_dir: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    extension_data: dict[str, Any] = field(default_factory=dict)
    ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """One turn: input messages, and the agent and options that answer them.

    `session.id` names the session; None means a new one. The other fields of `session` count only
    when the session is created. With `edit_message_id` the messages take the place of that user's
    message, in a new branch. With `after_message_id` they follow that message: it is the end of the
    current path, or else a new branch begins behind it. `client_tools` are tools that the client
    runs.
    """

    session: NewSession
    messages: list[NewMessage]
    agent: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    on_busy: OnBusy = "enqueue"
    edit_message_id: str | None = None
    after_message_id: str | None = None
    client_tools: ClientTools = ()


@dataclass(frozen=True, slots=True)
class Regenerate:
    """A turn that is answered again, in a new branch.

    `message_id` is an answer, or the user's message; None means the last message of the current
    path.
    """

    message_id: str | None = None
    agent: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    on_busy: OnBusy = "enqueue"
    client_tools: ClientTools = ()


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """Where a stream begins, when it ends, and how it shows that it is alive.

    Attributes:
        after: Begin after this position. Of `after`, `from_start` and `last_event_id` the latest
            one of the session's epoch counts.
        from_start: Begin before the first event.
        last_event_id: The last position that the client has seen; `malformed` when the client sent
            no valid position: the stream then begins with `reset`.
        until_complete: End after the terminal event of `run_id`. Without `run_id` that is the run
            which executes where the stream begins, or else the next one.
        connection_id: The client's own name for the connection; None: the gateway makes one.
        heartbeat_events: Send heartbeats as events, for clients that cannot see comments.
        remote_address: `host:port` of the client, shown in the list of connections.
        reconnect: Without a position, continue where the connection of that name was.
    """

    after: After | None = None
    from_start: bool = False
    last_event_id: Position | Literal["malformed"] | None = None
    until_complete: bool = False
    run_id: str | None = None
    connection_id: str | None = None
    heartbeat_events: bool = False
    remote_address: str | None = None
    reconnect: bool = False


AnswerT = TypeVar("AnswerT", bound=Mapping[str, Any], default=Any)
"""The shape of an answer; `answers` has the shapes. Without one it is any JSON object."""


class Outcome(NamedTuple, Generic[AnswerT]):
    """An answer that may be kept for its idempotency key.

    Attributes:
        answer: The answer, in the contract's shape.
        replayed: Whether this is the kept answer, because the request came again.
    """

    answer: AnswerT
    replayed: bool = False


class SessionDetail(NamedTuple):
    """One session. `etag` covers what PATCH can change; `messages` are pages of JSON objects."""

    session: SessionView
    etag: str
    messages: AsyncGenerator[list[bytes]] | None = None


class SessionList(NamedTuple, Generic[AnswerT]):
    """A page of sessions, or of what a list shows of them."""

    sessions: list[AnswerT]
    next_cursor: str | None
    has_more: bool
    total: int | None


class MessagePage(NamedTuple):
    """A page of messages, as JSON objects.

    Attributes:
        messages: The messages of the page.
        next_cursor: The place of the last one in the log, if there are more.
        has_more: Whether there are more messages.
        position: The end of the log: the pages have everything up to here.
        stream_after: Where a stream has to begin so that nothing is missing after the pages: at
            `position`, or before the active run.
    """

    messages: list[bytes]
    next_cursor: str | None
    has_more: bool
    position: Position
    stream_after: Position


class EventPage(NamedTuple):
    """A page of events, as JSON objects; `next` is the `after` of the following page."""

    events: list[bytes]
    next: Position
    has_more: bool


class RunList(NamedTuple):
    """A page of runs."""

    runs: list[RunView]
    next_cursor: str | None
    has_more: bool


class RunWait(NamedTuple):
    """The result of waiting for a run: its view and, once it has ended, its last answer."""

    run: RunView
    ended: bool
    message: dict[str, Any] | None

"""The JSON answers of `SessionManager`, in the shapes of the HTTP API.

Times are RFC 3339 strings in UTC with milliseconds; positions are `<epoch>-<seq>`. No answer has a
URL: `api` adds those. `domain.views` has the views of sessions and runs.

Optional members have a type of their own (`total=False`), which an answer is put together with.
"""

from typing import Any, Literal, NotRequired, TypedDict

from bamboo_gateway.domain.events import UsageCounts
from bamboo_gateway.domain.sessions import SessionState, ShareScope
from bamboo_gateway.domain.views import RunView, SessionView
from bamboo_gateway.exporters.imported import ImportNote

# -- conversations ------------------------------------------------------------------------------


class ChatTurn(TypedDict):
    """The answer to a chat.

    Attributes:
        session_id: The session, which may be new.
        run_id: The run that answers.
        message_ids: The ids of the input messages.
        status: Whether the run has begun, or waits for the ones before it.
        position: The position just before this chat's events: a stream from here shows them all.
    """

    session_id: str
    run_id: str
    message_ids: list[str]
    status: Literal["running", "queued"]
    position: str


class AgentView(TypedDict):
    """An agent that a chat may name.

    Attributes:
        kind: How the gateway reaches it: the scheme of its URL.
        model: The model that answers, as far as it is known.
        options: The JSON Schema of the options that a chat may set.
    """

    name: str
    kind: str
    model: str | None
    description: str | None
    is_default: bool
    options: dict[str, Any]


class InputsTaken(TypedDict):
    """Answers to requests for input, as they are stored.

    Attributes:
        session_id: The session.
        position: The position just before their events: a stream from here shows them all.
        run_id: The run that has started with them; absent while other requests are open.
    """

    session_id: str
    position: str
    run_id: NotRequired[str]


class MessagesAdded(TypedDict):
    """Messages as they are stored, and the position of the last one."""

    messages: list[dict[str, Any]]
    position: str


class BranchView(TypedDict):
    """A branch of a conversation.

    Attributes:
        branch_id: Its id; that of the first one is `main`.
        parent_branch_id: The branch that has the message it begins behind; None for one that
            begins before the first message.
        from_message_id: That message.
        tip_message_id: The last message of its path; None: there is none.
        message_count: The messages of its path.
        created_at: When it began.
        current: Whether it is the current one.
    """

    branch_id: str
    parent_branch_id: str | None
    from_message_id: str | None
    tip_message_id: str | None
    message_count: int
    created_at: str
    current: bool


class Branches(TypedDict):
    """All branches of a session, in the order in which they began."""

    branches: list[BranchView]


class BranchSelected(BranchView):
    """The branch that is current now, and the end of the log."""

    position: str


class SearchResult(TypedDict):
    """A message that a search found.

    Attributes:
        session_id: Its session.
        title: The title of the session.
        message_id: The message.
        role: Who said it.
        created_at: When it was said.
        position: The position of its event.
        snippet: The part of its text around the first hit.
        ranges: The start and end of each hit in the snippet, in characters.
    """

    session_id: str
    title: str | None
    message_id: str
    role: str
    created_at: str
    position: str
    snippet: str
    ranges: list[tuple[int, int]]


class SearchResults(TypedDict):
    """A page of found messages, the newest first."""

    results: list[SearchResult]
    next_cursor: str | None
    has_more: bool


class EventsAppended(TypedDict):
    """The positions of the first and the last event; None when there are none.

    `count` counts the posted events. The gateway may have added events of its own.
    """

    first: str | None
    last: str | None
    count: int


class CancelRequested(TypedDict, total=False):
    """`cancel_requested` is there, and true, while the end of a run is not in the log yet."""

    cancel_requested: bool


class RunCancelled(RunView, CancelRequested):
    """A run that was cancelled, or is about to end."""


class SessionCancelled(TypedDict):
    """The runs that were cancelled: the queued ones, then the active one."""

    session_id: str
    runs: list[RunCancelled]


class Connection(TypedDict):
    """An open stream.

    Attributes:
        connection_id: Its id, from the client or made.
        session_id: The session that it shows.
        since: When it was opened.
        position: The position of the last event that was written to it.
        lag_events: How many durable events are not written to it yet.
        remote_address: `host:port` of the client, as far as it is known.
    """

    connection_id: str
    session_id: str
    since: str
    position: str
    lag_events: int
    remote_address: str | None


# -- archive, export, import --------------------------------------------------------------------


class ArchivedSession(TypedDict):
    """An archived session; its bytes on the disk as stored, and unpacked."""

    session: SessionView
    archived_at: str
    bytes: int
    original_bytes: int


class Done(TypedDict):
    """A session for which a bulk command succeeded, and its bytes on the disk."""

    session_id: str
    bytes: int


class NotDone(TypedDict):
    """A session for which a bulk command failed, with the error's code and detail."""

    session_id: str
    code: str
    detail: str


class BulkArchived(TypedDict):
    """What archiving many sessions has done."""

    archived: list[Done]
    failed: list[NotDone]


class BulkRestored(TypedDict):
    """What restoring many sessions has done."""

    restored: list[Done]
    failed: list[NotDone]


class Exported(TypedDict):
    """A file that was written: its path as it was given, and its bytes."""

    path: str
    bytes: int


class Noted(TypedDict, total=False):
    """`notes` say what was left out or changed."""

    notes: list[ImportNote]


class Imported(SessionView, Noted):
    """A session made of a document, with notes about the document.

    In an `ImportedConversation` the notes are beside the session.
    """


class ImportedConversation(TypedDict):
    """One conversation of a document: its session, or the `code` and `detail` of why there is none.

    `conversation` counts from 1, and `of` is how many the document has.
    """

    conversation: int
    of: int
    notes: list[ImportNote]
    session: NotRequired[Imported]
    code: NotRequired[str]
    detail: NotRequired[str]


# -- sharing and branches -----------------------------------------------------------------------


class ShareView(TypedDict):
    """A share. One without a user is a link; one without `expires_at` stays until it is revoked."""

    id: str
    user_id: str | None
    created_at: str
    expires_at: str | None
    scope: ShareScope


class LinkToken(TypedDict, total=False):
    """The token of a link."""

    token: str


class ShareMade(ShareView, LinkToken):
    """A share that was just made. Only this answer has the token of a link."""


class CutMoved(TypedDict, total=False):
    """The end of a fork was moved out of a tool exchange.

    Attributes:
        cut_moved: True.
        cut_message_id: The last message of the fork; None: there is none.
        detail: Why the cut was moved, for people.
    """

    cut_moved: bool
    cut_message_id: str | None
    detail: str


class Forked(SessionView, CutMoved):
    """A new session with the beginning of another one."""


class Merged(SessionView, Noted):
    """The target of a merge; with notes when tool calls without a result were closed."""


class TreeNode(TypedDict):
    """A session in its branch tree. A deleted one, or another user's, is a stub.

    Attributes:
        forked_at: The parent's position that it was forked at.
        merged_from: The ids of the sessions that were merged into it.
        branches: Its forks.
    """

    session_id: str
    title: str | None
    state: SessionState | Literal["deleted"]
    created_at: str | None
    forked_at: str | None
    merged_from: list[str]
    branches: list["TreeNode"]


class Tree(TreeNode):
    """A whole tree from its root.

    `current` is the session that was asked for; `truncated` says that the tree has more sessions.
    """

    current: str
    truncated: bool


# -- summaries and statistics -------------------------------------------------------------------


class Summary(TypedDict):
    """A summary of everything up to `position`; `turn_count` is its number of turns.

    `message_id` is the last message that it covers. None: it covers none, or an earlier version has
    saved it.
    """

    session_id: str
    summary: str
    turn_count: int
    position: str
    message_id: str | None
    created_at: str


class RunCounts(TypedDict):
    """Runs by status."""

    queued: int
    running: int
    completed: int
    failed: int
    cancelled: int
    interrupted: int


class Statistics(TypedDict):
    """The counts of a session; tokens are the model's.

    `duration_seconds` is the time between its first and its last message, `active_seconds` the time
    that its runs took.
    """

    session_id: str
    total_messages: int
    user_messages: int
    assistant_messages: int
    tool_messages: int
    tool_calls: int
    tool_errors: int
    runs: RunCounts
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, UsageCounts]
    by_model: dict[str, UsageCounts]
    duration_seconds: float
    active_seconds: float
    first_message_at: str | None
    last_message_at: str | None


class Report(TypedDict):
    """A session for people: who, what, how long, how much."""

    session_id: str
    title: str | None
    user_id: str | None
    session_type: str
    state: SessionState
    working_dir: str | None
    created_at: str
    last_activity_at: str
    parent: dict[str, Any] | None
    merged_from: list[dict[str, Any]]
    has_summary: bool
    statistics: Statistics


class SessionInBrief(TypedDict):
    """A session as the overview names it."""

    session_id: str
    title: str | None
    created_at: str
    message_count: int


class Overview(TypedDict):
    """Statistics over sessions: how many by type, state and day of creation (UTC), and the sums."""

    sessions: int
    by_type: dict[str, int]
    by_state: dict[str, int]
    by_day: dict[str, int]
    total_messages: int
    tool_calls: int
    runs: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    total_tokens: int
    by_agent: dict[str, UsageCounts]
    by_model: dict[str, UsageCounts]
    oldest: SessionInBrief | None
    newest: SessionInBrief | None
    most_active: list[SessionInBrief]


# -- retention, extension data, diagnostics -----------------------------------------------------


class CleanupStats(TypedDict):
    """What a cleanup has deleted, or with `dry_run` would delete."""

    sessions_cleaned: int
    archives_cleaned: int
    bytes_freed: int
    session_ids: list[str]
    dry_run: bool


class FailedErasure(TypedDict):
    """A session that could not be deleted, or whose share could not be removed, for now."""

    session_id: str
    code: str


class ErasedPart(TypedDict):
    """A part of what the gateway keeps, and when nothing of the user is in it any more."""

    store: str
    what: str
    gone: str


class Remaining(TypedDict):
    """What an erasure leaves, where, and until when."""

    where: str
    what: str
    until: str


class UserErasure(TypedDict):
    """The receipt of an erasure: what of one user has gone, or with `dry_run` would go."""

    user_id: str
    dry_run: bool
    complete: bool
    sessions: int
    archives: int
    bytes_freed: int
    shares: int
    keys: int
    webhooks: int
    files: int
    exports: int
    sessions_left: int
    failed: list[FailedErasure]
    stores: list[ErasedPart]
    remains: list[Remaining]


class ExtensionState(TypedDict):
    """The state of one extension."""

    name: str
    config: dict[str, Any]
    enabled: bool


class TodoState(TypedDict):
    """The todo list of a session, as its agent or its user writes it."""

    content: str


class ExtensionData(TypedDict):
    """Which extensions are enabled, the todo list, and custom values."""

    enabled_extensions: list[ExtensionState]
    todo_state: TodoState | None
    custom: dict[str, Any]


CheckStatus = Literal["ok", "warn", "fail"]


class CheckResult(TypedDict):
    """The result of one check: what it saw, and what to do when it is not `ok`."""

    name: str
    status: CheckStatus
    seen: str
    action: str


class Diagnostics(TypedDict):
    """All checks; `status` is the worst of them."""

    status: CheckStatus
    checks: list[CheckResult]

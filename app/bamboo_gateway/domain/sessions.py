"""A session's head: a small projection of its log, without the messages and events themselves.

Lists, catalog lines and snapshots hold it, and decisions are made on it. It can be computed again
from the log whenever it is lost.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final, Literal

from bamboo_gateway.domain.events import RequestKind, Usage
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.usage_parts import UsageParts

SessionType = Literal["user", "sub_agent", "scheduled"]
SESSION_TYPES = ("user", "sub_agent", "scheduled")
ShareScope = Literal["read", "answer"]
LoggedState = Literal["closed", "expired", "archived"]
SessionState = Literal[
    "active", "needs_input", "idle", "disconnected", "closed", "expired", "archived"
]


@dataclass(slots=True)
class ActiveRun:
    """The active run of the session, which has at most one.

    `start_seq` is the seq of its `run_start`. `before_seq` is the seq before its input messages: a
    client that has loaded the messages begins to stream there. `started_at` is in ms. `model` is
    the model that answers, if that is known at the start.

    Where several processes share a store, `executor` is the process that executes the run
    (`storage.replicas`), and `wish` the terminal event that somebody elsewhere wishes it to end
    with. Neither is in the log: the next commit of the process that has the run carries both.
    """

    run_id: str
    agent: str
    start_seq: int
    before_seq: int
    started_at: int = 0
    model: str | None = None
    executor: str | None = None
    wish: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the stored form, as `SessionHead.to_json`.

        What only processes that share a store need is left out without them: an earlier version
        does not know these members, and reads no head that has them.
        """
        shape = {name: getattr(self, name) for name in _ACTIVE_NAMES}
        if self.executor is not None:
            shape["executor"] = self.executor
        if self.wish is not None:
            shape["wish"] = self.wish
        return shape


@dataclass(slots=True)
class QueuedRun:
    """A run that waits in the queue; its input is in the `run_queued` event at `seq`."""

    run_id: str
    seq: int


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request for input that has no answer yet; its whole event is in the log at `seq`.

    Attributes:
        request_id: Its name.
        kind: The kind of answer.
        run_id: The run that asked.
        agent: The agent of that run; it gets the answers.
        seq: The seq of its `input_required` event.
        asked_at: When it was asked, in ms.
        prompt: The begin of the question, for lists.
        tool_call_id: The call that it is about.
        expires_at: When it ends without an answer, in ms.
    """

    request_id: str
    kind: RequestKind
    run_id: str
    agent: str
    seq: int
    asked_at: int
    prompt: str = ""
    tool_call_id: str | None = None
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class SettledRequest:
    """A request that was answered, or has expired, while others of its run are still open.

    The next run of the session gets it. `asked_seq` is the seq of its `input_required`, `seq` that
    of its `input_given` or `input_closed`.
    """

    request_id: str
    asked_seq: int
    seq: int
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class SummaryRef:
    """The current summary: the seq of its event, the last seq it covers, its number of turns.

    `message_seq` is the seq of the last message that it covers, 0 when it covers none. Summaries of
    earlier versions have None: their sessions have one branch.
    """

    seq: int
    covers_seq: int
    turn_count: int
    message_seq: int | None = None

    @property
    def end_seq(self) -> int:
        """The seq of the last message that it covers, or one behind it that covers no more."""
        return self.covers_seq if self.message_seq is None else self.message_seq


@dataclass(frozen=True, slots=True)
class Share:
    """Permission to read the session, for one user or for everyone with the token of a link.

    With the scope `answer` it also permits to answer requests for input.

    Times are milliseconds since 1970. Of a token only the SHA-256 is kept, in hex.
    """

    id: str
    user_id: str | None
    created_at: int
    expires_at: int | None = None
    token_sha256: str | None = None
    scope: ShareScope = "read"

    def holds_at(self, now_ms: int) -> bool:
        """Return whether the share is valid at this time."""
        return self.expires_at is None or now_ms < self.expires_at


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of statistics, folded and never recounted, so that compaction changes nothing."""

    by_role: dict[str, int] = field(default_factory=dict)
    tool_calls: int = 0
    tool_errors: int = 0
    runs: dict[str, int] = field(default_factory=dict)
    active_ms: int = 0
    first_message_at: int | None = None
    last_message_at: int | None = None


MAIN_BRANCH: Final = "main"
"""The id of the branch that every session begins with."""

OPEN_SPAN: Final = -1
"""The end of the span that still grows: the last one of the current branch."""


@dataclass(frozen=True, slots=True)
class PathState:
    """What a head has of one path through the conversation, as of the tip of a branch.

    The members are those of `Counts` and `SessionHead` with the same names.
    """

    message_count: int = 0
    by_role: dict[str, int] = field(default_factory=dict)
    tool_calls: int = 0
    first_message_at: int | None = None
    last_message_at: int | None = None
    system_seqs: list[int] = field(default_factory=list)
    tip_id: str | None = None
    summary: SummaryRef | None = None
    preview: str | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch of the conversation (`domain.paths`).

    Attributes:
        id: Its id.
        created_at: When it began, in ms.
        parent_id: The branch that has the message which it begins behind; None for one that begins
            before the first message.
        from_id: That message.
        from_seq: The seq of that message, or 0.
        spans: Where its own messages are: behind the first seq, up to the second.
        state: Of the current branch the state when it became current, of the others the present
            one.
    """

    id: str
    created_at: int
    parent_id: str | None = None
    from_id: str | None = None
    from_seq: int = 0
    spans: tuple[tuple[int, int], ...] = ()
    state: PathState = field(default_factory=PathState)

    @staticmethod
    def of(shape: dict[str, Any]) -> "Branch":
        """Read the stored form."""
        state = shape["state"]
        if state.get("summary"):
            state = state | {"summary": SummaryRef(**state["summary"])}
        spans = tuple((after, upto) for after, upto in shape["spans"])
        return Branch(**{**shape, "spans": spans, "state": PathState(**state)})


@dataclass(slots=True)
class SessionHead:
    """The head of a session. Times are milliseconds since 1970; `seq` is the last event folded.

    Messages up to the seq `history_from` are not part of the conversation any more: a merge has
    replaced them. `open_calls` are tool calls that wait for a result (`tool_order`). `system_seqs`
    are the seqs of the conversation's system messages, as long as there are few. `preview` is the
    beginning of the last text of a person or the assistant (`short_text`). `title_given` says
    whether somebody, or the gateway, has set the title, perhaps to none. `open_requests` wait for
    people, in the order in which they were asked; `settled_requests` are those of the same run that
    wait no longer (`input_requests`). `shares` has ended ones too, while their users are
    remembered: these users are told that the session is gone. `files` are the ids of the files that
    its messages name, also those of
    queued runs. `hidden_runs` are runs that a client has deleted in a protocol which shows runs by
    themselves.

    Messages, their counts, `open_calls`, `system_seqs`, `preview` and `summary` are those of the
    current path. `tip_id` is its last message; None when there is none, or in heads of earlier
    versions until the next message. `branches` is empty until a second branch begins.
    `branch_points` has, for each message that branches begin behind (`""`: before the first), the
    messages that follow it.

    `version` counts the commits, also those of notes alone. It belongs to the row of a store that
    several processes share, not to the stored form; other stores leave it 0.
    """

    id: str
    epoch: int
    seq: int = 0
    title: str | None = None
    user_id: str | None = None
    session_type: SessionType = "user"
    working_dir: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    extension_data: dict[str, Any] = field(default_factory=dict)
    ttl_seconds: int | None = None
    created_at: int = 0
    updated_at: int = 0
    last_activity_at: int = 0
    message_count: int = 0
    preview: str | None = None
    title_given: bool = False
    usage: Usage = field(default_factory=Usage)
    usage_parts: UsageParts = field(default_factory=UsageParts)
    counts: Counts = field(default_factory=Counts)
    parent: dict[str, Any] | None = None
    ancestors: list[dict[str, Any]] = field(default_factory=list)
    merged_from: list[dict[str, Any]] = field(default_factory=list)
    history_from: int = 0
    open_calls: list[str] = field(default_factory=list)
    system_seqs: list[int] = field(default_factory=list)
    summary: SummaryRef | None = None
    tip_id: str | None = None
    branch_id: str = MAIN_BRANCH
    branches: tuple[Branch, ...] = ()
    branch_points: dict[str, list[str]] = field(default_factory=dict)
    archived_at: int | None = None
    logged_state: LoggedState | None = None
    active: ActiveRun | None = None
    queue: list[QueuedRun] = field(default_factory=list)
    open_requests: list[OpenRequest] = field(default_factory=list)
    settled_requests: list[SettledRequest] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    hidden_runs: list[str] = field(default_factory=list)
    version: int = field(default=0, compare=False)

    @property
    def knows_system_messages(self) -> bool:
        """Whether `system_seqs` is complete; heads of earlier versions may have none."""
        return len(self.system_seqs) == self.counts.by_role.get("system", 0)

    @property
    def position(self) -> Position:
        """The position of the last event of the log."""
        return Position(self.epoch, self.seq)

    @property
    def expires_at(self) -> int | None:
        """When the time to live ends, in ms; None without a time to live."""
        if self.ttl_seconds is None:
            return None
        return self.last_activity_at + self.ttl_seconds * 1000

    @property
    def readers(self) -> dict[str, int | None]:
        """The users whom a share lets read the session, or did before.

        Each has the time in ms at which the last share ends or has ended; None: it does not end.
        """
        readers: dict[str, int | None] = {}
        for share in self.shares:
            if share.user_id is None:
                continue
            known = readers.get(share.user_id, 0)
            is_endless = share.expires_at is None or known is None
            readers[share.user_id] = None if is_endless else max(known or 0, share.expires_at or 0)
        return readers

    @property
    def request_expires_at(self) -> int | None:
        """When the first open request expires, in ms; None when none does."""
        return min((one.expires_at for one in self.open_requests if one.expires_at), default=None)

    @property
    def is_unfinished(self) -> bool:
        """Whether the gateway has to act by itself: on a run, or when a request expires."""
        if self.active is not None or self.queue:
            return True
        return bool(self.open_requests) and self.request_expires_at is not None

    def is_shared_with(self, user_id: str, now_ms: int) -> bool:
        """Return whether the session is shared with this user at this time."""
        return any(share.user_id == user_id and share.holds_at(now_ms) for share in self.shares)

    def copy(self) -> "SessionHead":
        """Return an independent copy. Dict values are shared: they are replaced, never changed."""
        # Member by member: `replace` takes three times as long, and each commit makes a copy.
        head = SessionHead(*_members(self))
        if head.active is not None:
            head.active = replace(head.active)
        head.queue = [replace(queued) for queued in head.queue]
        return head

    def to_json(self) -> dict[str, Any]:
        """Return the stored form, for the codec, which writes dataclasses as objects.

        Members with their default value are left out: most sessions have few others.
        """
        shape = {
            name: value for name, default in _DEFAULTS if (value := getattr(self, name)) != default
        }
        if self.active is not None:
            shape["active"] = self.active.to_json()
        return shape

    @staticmethod
    def of(shape: dict[str, Any]) -> "SessionHead":
        """Read the stored form.

        Raises:
            TypeError, KeyError: `shape` is no stored head.
        """
        known = {name: shape[name] for name in _STORED if name in shape}
        if "usage" in known:
            known["usage"] = Usage(**known["usage"])
        if "usage_parts" in known:
            known["usage_parts"] = UsageParts.of(known["usage_parts"])
        if "counts" in known:
            known["counts"] = Counts(**known["counts"])
        if known.get("summary"):
            known["summary"] = SummaryRef(**known["summary"])
        if "branches" in known:
            known["branches"] = tuple(map(Branch.of, known["branches"]))
        if known.get("active"):
            known["active"] = ActiveRun(**known["active"])
        if "shares" in known:
            known["shares"] = [Share(**share) for share in known["shares"]]
        if "open_requests" in known:
            known["open_requests"] = [OpenRequest(**one) for one in known["open_requests"]]
        if "settled_requests" in known:
            known["settled_requests"] = [SettledRequest(**one) for one in known["settled_requests"]]
        known["queue"] = [QueuedRun(**queued) for queued in known.get("queue", ())]
        return SessionHead(**known)


@dataclass(frozen=True, slots=True)
class Presence:
    """What the state of a session depends on besides its head, as of one moment.

    Attributes:
        now_ms: The time.
        watched: The sessions with an open stream.
        disconnected: The sessions whose last stream ended not longer ago than
            `disconnect_retention_seconds`.
    """

    now_ms: int
    watched: Collection[str] = ()
    disconnected: Collection[str] = ()


def state_of(head: SessionHead, presence: Presence) -> SessionState:
    """Return the state of a session at a moment.

    An active run comes first, then what waits for people, then an open stream. A closed session
    expires like any other. An archived one does not: it has a retention of its own.
    """
    if head.logged_state == "archived":
        return "archived"
    if head.logged_state is None:
        if head.active:
            return "active"
        if head.id in presence.watched:
            return "needs_input" if head.open_requests else "active"
    expires_at = head.expires_at
    if expires_at is not None and expires_at <= presence.now_ms and not head.queue:
        return "expired"
    if head.logged_state is not None:
        return head.logged_state
    if head.open_requests:
        return "needs_input"
    return "disconnected" if head.id in presence.disconnected else "idle"


def is_stored_unfinished(shape: dict[str, Any]) -> bool:
    """Return `is_unfinished` of a stored head, which omits members with their default value."""
    if "active" in shape or "queue" in shape:
        return True
    return any(one.get("expires_at") for one in shape.get("open_requests", ()))


_ACTIVE_NAMES = ("run_id", "agent", "start_seq", "before_seq", "started_at", "model")
_NAMES = tuple(f.name for f in fields(SessionHead))
_members = attrgetter(*_NAMES)
_BLANK = SessionHead("", 0)
_STORED = tuple(name for name in _NAMES if name != "version")
_DEFAULTS = tuple((name, getattr(_BLANK, name)) for name in _STORED)

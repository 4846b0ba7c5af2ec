"""Lists of sessions and their filters, sizes, and what a store has found in its own files."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from bamboo_gateway.domain.sessions import SessionHead, SessionState

METADATA_FILTERS_MAX = 5
"""The pairs that a list of sessions may be filtered by."""


@dataclass(frozen=True, slots=True)
class SessionQuery:
    """The filters, order and page of a list of sessions. Times are in ms; `None` does not filter.

    `parent_id` selects the forks of a session; `root_id` selects a whole tree: the session itself
    and those whose first ancestor it is. `shared_with` selects sessions with a share for that user
    that is valid at `shared_at`. `archived` includes or excludes archived sessions; with
    `state == "archived"` they are listed in any case.

    `metadata` selects the sessions whose metadata has each of these keys with this value. A text is
    compared as it is, a number, `true`, `false` or `null` as its JSON text. What is nested in a key
    (an object, an array) never matches. At most `METADATA_FILTERS_MAX` pairs.

    `id_prefix` selects the sessions whose ids begin with it, `terms` those with a message that
    `SearchQuery.terms` finds.

    A page that is continued by `cursor`, without `count`, costs about what it shows, whatever it is
    filtered by and however many sessions there are.

    `cursor` is the `next_cursor` of the page before. It names the last entry shown (its sort value
    and id), so pages neither repeat nor skip entries while sessions come and go. `offset` counts
    from the start instead.
    """

    user_id: str | None = None
    state: SessionState | None = None
    session_type: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    active_after: int | None = None
    title_contains: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()
    terms: tuple[str, ...] = ()
    id_prefix: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    shared_with: str | None = None
    shared_at: int = 0
    archived: Literal["exclude", "only", "include"] = "exclude"
    sort_by: Literal["last_activity_at", "created_at", "updated_at", "message_count", "title"] = (
        "last_activity_at"
    )
    descending: bool = True
    cursor: str | None = None
    offset: int | None = None
    limit: int = 100
    count: bool = True


@dataclass(frozen=True, slots=True)
class SessionPage:
    """A page of heads. `total` counts the sessions that match, or is None when not asked for."""

    heads: list[SessionHead]
    next_cursor: str | None
    has_more: bool
    total: int | None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A search for messages: filters and page. Times are in ms; `None` does not filter.

    Attributes:
        terms: The folded terms (`domain.search.fold`); a message has to have every one of them.
        user_id: The owner of the session.
        role: The role of the message. None: every role but `tool`, since results of tools are long
            and many.
        session_id: The session of the message.
        created_after, created_before: The time of the message, excluding the moment itself.
        archived: Whether messages of archived sessions are found.
        cursor: The `next_cursor` of the page before.
        limit: The most messages of a page.
    """

    terms: tuple[str, ...]
    user_id: str | None = None
    role: str | None = None
    session_id: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    archived: Literal["exclude", "only", "include"] = "exclude"
    cursor: str | None = None
    limit: int = 20


class SearchHit(NamedTuple):
    """A message that a search found. `body` is its `message` event, as `find` returns it."""

    session_id: str
    epoch: int
    title: str | None
    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class SearchPage:
    """A page of found messages, the newest first."""

    hits: list[SearchHit]
    next_cursor: str | None
    has_more: bool


class GoneSession(NamedTuple):
    """A deleted session: what decides who is told that it is gone."""

    user_id: str | None
    session_type: str
    parent_id: str | None
    shared_with: tuple[str, ...] = ()


class Change(NamedTuple):
    """The last change of a session.

    Attributes:
        number: The number of the change; a later change of any session has a higher one.
        session_id: The session.
        head: Its head as of reading; None when it was deleted.
        gone: What is still known of it when it was deleted; None otherwise.
    """

    number: int
    session_id: str
    head: SessionHead | None
    gone: GoneSession | None = None


@dataclass(frozen=True, slots=True)
class ChangePage:
    """Changes in the order of their numbers.

    Attributes:
        changes: The changes.
        last: The number to go on from: that of the last change of the page, or a higher one when
            there is nothing in between.
        has_more: Whether there are changes behind `last` already.
    """

    changes: list[Change]
    last: int
    has_more: bool


class Expiry(NamedTuple):
    """A session of which something ends by itself: its time to live, or a share with a user.

    Attributes:
        at: When it ends, in ms.
        session_id: The session.
        head: Its head as of reading.
    """

    at: int
    session_id: str
    head: SessionHead


class ValueChange(NamedTuple):
    """A value that is written, or removed (None)."""

    kind: str
    key: str
    value: bytes | None


class StoredSize(NamedTuple):
    """The bytes that a session's log takes as it is stored now, and those it takes unpacked."""

    stored_bytes: int
    original_bytes: int


class Erased(NamedTuple):
    """A part of a store, and when nothing of an erased user is in it any more.

    Attributes:
        store: The store.
        what: What was in it.
        gone: When it is gone: `now`, or under which condition.
    """

    store: str
    what: str
    gone: str


class StoreUsage(NamedTuple):
    """How many sessions a user has stored, archived ones included, and the bytes of their logs.

    Bytes are counted as they are stored now: for an archived session those of its bundle. Files
    made of the logs (snapshots, indexes) and the shared journal are not counted.
    """

    sessions: int
    stored_bytes: int


@dataclass(slots=True)
class RecoveryReport:
    """What the store found and did when it was opened; logged in one line."""

    sessions: int = 0
    clean: bool = True
    journal_records: int = 0
    replayed_events: int = 0
    torn_bytes: int = 0
    damaged: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    catalog_rebuilt: bool = False
    new_epochs: int = 0
    # Sessions whose index of messages did not match their log, as earlier versions could leave it.
    mended_indexes: int = 0
    # Sessions whose logs cannot be written, and whether the reason is a full disk.
    unwritten: list[str] = field(default_factory=list)
    disk_full: bool = False
    seconds: float = 0.0


class StoreCheck(NamedTuple):
    """The result of one check of a running store: what it saw, and what to do unless it is `ok`.

    No text has a path of the machine or a password: clients may see it.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    seen: str
    action: str = ""


Severity = Literal["note", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What `bamboo doctor` found: a problem, or a fact that a person may want to know.

    Attributes:
        severity: `fail` when something was lost or is at risk, `warn` when the store repairs it by
            itself, `note` when nothing is wrong any more.
        subject: A session's id, or the part of the store: a file, a table.
        problem: What is wrong.
        action: What is done about it, or would be done with `repair`.
        repaired: Whether it was done.
    """

    severity: Severity
    subject: str
    problem: str
    action: str
    repaired: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is still wrong."""
        return not self.repaired and self.severity != "note"

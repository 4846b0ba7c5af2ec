"""How a list is read from the tables: which of their indexes lead to its sessions.

A list is made of branches. A branch either scans one group of sessions in the order of the list,
through the index that begins with the group, and stops when its page is full. Or it is led by a
filter that few sessions pass, and sorts them. The number of sessions that a filter leads to is
counted first, but only up to `LED_MAX`.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal, NamedTuple

from bamboo_gateway.domain.sessions import Presence, SessionState
from bamboo_gateway.storage.index.metadata_pairs import pair_of
from bamboo_gateway.storage.index.rows import GROUPS, SLOT_BITS, Group, title_bytes
from bamboo_gateway.storage.index.search import term_values
from bamboo_gateway.storage.listing import archived_mode, read_cursor
from bamboo_gateway.storage.reports import METADATA_FILTERS_MAX, SessionQuery

# Sorting these takes about as long as looking for a full page among 100,000 sessions of which as
# many match: each looks at some 3,000 rows.
LED_MAX: Final = 3000

# A condition beside the group. Those about presence: `watched`, `disconnected`, neither (`absent`).
Condition = Literal[
    "active", "inactive", "active_or_watched", "watched", "unwatched", "expired", "unexpired",
    "disconnected", "absent", "watched_or_unexpired",
]  # fmt: skip

# `domain.sessions.state_of` by groups: all conditions of a group hold in the state.
_STATES: Final[Mapping[SessionState, Mapping[Group, tuple[Condition, ...]]]] = {
    "archived": {"archived": ()},
    "active": {
        "idle": ("watched",),
        "running": ("active_or_watched",),
        "timed": ("watched",),
        "asking": ("active",),
    },
    "needs_input": {"asking": ("inactive",), "asking_timed": ("watched_or_unexpired",)},
    "expired": {
        "timed": ("unwatched", "expired"),
        "closing": ("expired",),
        "expired": (),
        "asking_timed": ("unwatched", "expired"),
    },
    "closed": {"closing": ("unexpired",), "closed": ()},
    "disconnected": {
        "idle": ("unwatched", "disconnected"),
        "running": ("inactive", "unwatched", "disconnected"),
        "timed": ("unwatched", "unexpired", "disconnected"),
    },
    "idle": {
        "idle": ("absent",),
        "running": ("inactive", "absent"),
        "timed": ("unexpired", "absent"),
    },
}

# The filters that an index leads to, by what `SessionQuery` sets; `user_id` leads a scan too.
LEADERS: Final = (
    "found",
    "parent_id", "root_id", "shared_with", "id_prefix", "session_type", "created", "active_after",
    *(f"metadata_{number}" for number in range(METADATA_FILTERS_MAX)),
    "title_contains", "user_id",
)  # fmt: skip
Leader = str
# The filters by a time that a list may be sorted by.
SORTED_FILTERS: Final = {"created_at": "created", "last_activity_at": "active_after"}


class Branch(NamedTuple):
    """Sessions of some groups, with the conditions of each: scanned, or led by a filter."""

    groups: tuple[tuple[Group, tuple[Condition, ...]], ...]
    leader: Leader | None = None


class Shape(NamedTuple):
    """What a statement's text depends on; its values are in `ListValues`."""

    filters: tuple[str, ...]
    branches: tuple[Branch, ...]
    sort_by: str
    descending: bool
    is_continued: bool


class ListPlan:
    """The shapes of a query's statements, and their values."""

    def __init__(
        self, query: SessionQuery, presence: Presence, found: Collection[int] | None = None
    ) -> None:
        self._query = query
        self._presence = presence
        self.start = read_cursor(query)
        self.filters = tuple(name for name in FILTERS if FILTERS[name](query))
        self.values = _values(query, presence, self.start)
        if query.terms:
            # Those that the search index found, or each one is looked at.
            self.filters += ("found",) if found is not None else (f"terms_{len(query.terms)}",)
            self.values |= {"found": found, **term_values(query.terms)}
        self._groups = tuple(_groups(query, presence))

    @property
    def is_impossible(self) -> bool:
        """Whether no session can match: ids are never like that, and databases may refuse it."""
        query = self._query
        ids = (query.user_id, query.parent_id, query.root_id, query.shared_with, query.id_prefix)
        return not self._groups or any(
            text is not None and not (text.isascii() and text.isprintable()) for text in ids
        )

    @property
    def leaders(self) -> tuple[Leader, ...]:
        """The leaders that are counted: none when a scan is as good as any of them."""
        found = [name for name in LEADERS if name in self.filters and name != self._scanned]
        return () if found in ([], ["user_id"]) else tuple(found)

    @property
    def _scanned(self) -> str | None:
        """The filter by time that is a part of each scan, since the list is sorted by that time."""
        return SORTED_FILTERS.get(self._query.sort_by)

    def page(self, counts: Mapping[Leader, int]) -> Shape:
        """Return the shape of the page's statement.

        Args:
            counts: To how many sessions each of `leaders` leads, up to `LED_MAX + 1`.
        """
        leader = min(counts, key=lambda name: counts[name], default=None)
        if leader is not None and counts[leader] <= LED_MAX and leader != "user_id":
            branches = [Branch(self._groups, leader)]
        else:
            branches = self._by_presence() or [Branch((group,)) for group in self._groups]
        return self._shape(branches, is_continued=self.start is not None)

    def total(self, counts: Mapping[Leader, int]) -> Shape:
        """Return the shape of the statement that counts all matches."""
        shape = self.page(counts)._replace(is_continued=False)
        if self.filters == ("title_contains",) and self._query.state is None:
            # Its index is read as a whole; once is enough.
            shape = shape._replace(branches=(Branch(self._groups, "title_contains"),))
        return shape

    def _by_presence(self) -> list[Branch] | None:
        """Let the sessions with streams lead, if the state is about them and they are few."""
        match self._query.state:
            case "active":
                leader, ids = "watched", self._presence.watched
            case "disconnected":
                leader, ids = "disconnected", self._presence.disconnected
            case _:
                return None
        if len(ids) > LED_MAX:
            return None
        scanned = [pair for pair in self._groups if leader not in pair[1]]
        led = tuple(
            (group, tuple(name for name in conditions if name != leader))
            for group, conditions in self._groups
            if leader in conditions
        )
        return [Branch((pair,)) for pair in scanned] + ([Branch(led, leader)] if led else [])

    def _shape(self, branches: list[Branch], *, is_continued: bool) -> Shape:
        query = self._query
        return Shape(self.filters, tuple(branches), query.sort_by, query.descending, is_continued)


def _has_pair(number: int) -> Callable[[SessionQuery], bool]:
    return lambda query: len(query.metadata) > number


# Whether a query filters by it. The filters by archive and state are in the groups.
FILTERS: Final[dict[str, Callable[[SessionQuery], bool]]] = {
    "user_id": lambda query: query.user_id is not None,
    "session_type": lambda query: query.session_type is not None,
    "created": lambda query: (query.created_after, query.created_before) != (None, None),
    "active_after": lambda query: query.active_after is not None,
    "title_contains": lambda query: bool(query.title_contains),
    "id_prefix": lambda query: bool(query.id_prefix),
    "parent_id": lambda query: query.parent_id is not None,
    "root_id": lambda query: query.root_id is not None,
    "shared_with": lambda query: query.shared_with is not None,
    **{f"metadata_{number}": _has_pair(number) for number in range(METADATA_FILTERS_MAX)},
}  # fmt: skip

# Beyond every time, in ms, and within 64 bits.
_TIME_MAX = 1 << 62


def _groups(query: SessionQuery, presence: Presence) -> list[tuple[Group, tuple[Condition, ...]]]:
    mode = archived_mode(query)
    wanted = _STATES[query.state] if query.state else dict.fromkeys(GROUPS, ())
    found = []
    for group, conditions in wanted.items():
        if mode == ("exclude" if group == "archived" else "only"):
            continue
        known = _known(conditions, presence)
        if known is not None:
            found.append((group, known))
    return found


def _known(conditions: Collection[Condition], presence: Presence) -> tuple[Condition, ...] | None:
    """Leave out the conditions that hold when nobody is connected; None when one cannot hold."""
    left: list[Condition] = []
    for condition in conditions:
        match condition:
            case "watched" if not presence.watched:
                return None
            case "disconnected" if not presence.disconnected:
                return None
            case "unwatched" if not presence.watched:
                pass
            case "absent" if not (presence.watched or presence.disconnected):
                pass
            case "active_or_watched" if not presence.watched:
                left.append("active")
            case "watched_or_unexpired" if not presence.watched:
                left.append("unexpired")
            case _:
                left.append(condition)
    return tuple(left)


def _values(
    query: SessionQuery, presence: Presence, start: tuple[int | str, str] | None
) -> dict[str, Any]:
    prefix = query.id_prefix or ""
    values: dict[str, Any] = {
        "user_id": query.user_id,
        "session_type": query.session_type,
        "parent_id": query.parent_id,
        "root_id": query.root_id,
        "shared_with": query.shared_with,
        "shared_at": query.shared_at,
        "created_after": -_TIME_MAX if query.created_after is None else query.created_after,
        "created_before": _TIME_MAX if query.created_before is None else query.created_before,
        "active_after": query.active_after,
        "active_after_slot": (query.active_after or 0) >> SLOT_BITS,
        "title_contains": title_bytes((query.title_contains or "").casefold()),
        "id_from": prefix,
        # The first id behind all those with the prefix.
        "id_to": prefix and prefix[:-1] + chr(ord(prefix[-1]) + 1),
        "now": presence.now_ms,
        "now_slot": presence.now_ms >> SLOT_BITS,
        "watched": presence.watched,
        "disconnected": presence.disconnected,
        "present": {*presence.watched, *presence.disconnected} if query.state == "idle" else (),
        "rows": query.limit + 1,
        "rows_to": (query.offset or 0 if start is None else 0) + query.limit + 1,
        "skipped": query.offset or 0 if start is None else 0,
        "led": LED_MAX + 1,
    }
    for number, pair in enumerate(query.metadata):
        values[f"metadata_{number}"] = pair_of(*pair)
    if start is not None:
        value, session_id = start
        values["from_id"] = session_id
        values["from_value"] = title_bytes(value) if isinstance(value, str) else value
        values["from_slot"] = 0 if isinstance(value, str) else value >> SLOT_BITS
    return values

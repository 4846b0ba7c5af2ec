"""Lists of sessions from views in memory.

A view is a sorted list of (sort value, id) of all sessions, or of those of one user, parent, tree
or share. It includes or excludes archived sessions, or has them alone; a view for a list by state
has the sessions of one `HeadState`. The first query makes the view. Each later query first updates
it from the ids that changed since. So a page costs what it shows, and a commit costs one `set.add`.
Making, updating and filtering views yields to the event loop after each part of the work.
"""

from collections import OrderedDict
from collections.abc import Iterator
from heapq import merge
from itertools import islice

import anyio.lowlevel
from sortedcontainers import SortedList

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import Presence, SessionHead, SessionState, state_of
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.relations import RelationIndex, Scope, is_within
from bamboo_gateway.storage.listing import (
    HeadState,
    SortKey,
    admits_archived,
    admits_content,
    admits_relations,
    admits_stored,
    archived_mode,
    is_filtered,
    is_filtered_by_content,
    make_page,
    read_cursor,
    sort_key,
)
from bamboo_gateway.storage.reports import SessionPage, SessionQuery

# About 10 ms of decoding: the longest time that a list keeps the loop from its streams.
_BATCH_ENTRIES = 1000
# A view of 100,000 sessions takes about 25 MB. A scope that is not among the last few dozen gets a
# new view.
_VIEWS_MAX = 32

# Scope, archived mode, sort order, and the `HeadState` if the view has only one.
_ViewName = tuple[Scope, str, str, HeadState | None]
# The `HeadState` of each state that the head alone decides.
_HEAD_STATE_OF: dict[SessionState, HeadState] = {
    "needs_input": "needs_input",
    "idle": "idle",
    "closed": "closed",
    "expired": "expired",
    "archived": "archived",
}


class _View:
    """The sorted keys, and the key of each session."""

    __slots__ = ("by_id", "keys", "stale")

    def __init__(self) -> None:
        self.keys: SortedList[SortKey] = SortedList()
        self.by_id: dict[str, SortKey] = {}
        self.stale: set[str] = set()


class SessionViews:
    """The views and their queries; used on the loop's thread alone."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._relations = RelationIndex(catalog)
        self._views: OrderedDict[_ViewName, _View] = OrderedDict()

    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        """List sessions as `SessionStore.query` does."""
        start = read_cursor(query)
        if query.state is not None and not is_filtered_by_content(query):
            page = await self._in_state(query, query.state, presence, start)
            if page is not None:
                return page
        scope, [view] = await self._current(query, None)
        if not is_filtered(query) and _is_covered(query, scope):
            keys = _keys(view, query.descending, start)
            skipped = query.offset or 0 if start is None else 0
            wanted = islice(keys, skipped, skipped + query.limit + 1)
            heads = [self._head(session_id) for _, session_id in wanted]
            return make_page(heads, query, len(view.keys) if query.count else None)
        return await self._filtered(view, query, presence, start)

    async def _in_state(
        self,
        query: SessionQuery,
        state: SessionState,
        presence: Presence,
        start: SortKey | None,
    ) -> SessionPage | None:
        """List by state: some heads decide it alone, `presence` decides the others.

        Returns:
            None when owner or tree filter more than a view does.
        """
        noted = {*presence.watched, *presence.disconnected}
        head_state = _HEAD_STATE_OF.get(state)
        answers: dict[str, bool] = {}
        while True:
            scope, [asked, sure] = await self._current(query, "open", head_state or "open")
            if not _is_covered(query, scope):
                return None
            missing = [name for name in {*asked.by_id, *noted} if name not in answers]
            for name in missing[:_BATCH_ENTRIES]:
                entry = self._catalog.entries.get(name)
                answers[name] = entry is not None and state_of(entry.own_head(), presence) == state
            if len(missing) <= _BATCH_ENTRIES:
                break
            await anyio.lowlevel.checkpoint()
        known = sure.by_id if head_state else {}
        keys = [
            key
            for name, is_so in answers.items()
            if is_so and name not in known and (key := self._shown_key(name, scope, query))
        ]
        less = sum(1 for name, is_so in answers.items() if not is_so and name in known)
        total = len(known) - less + len(keys) if query.count else None
        if start is not None:
            keys = [key for key in keys if _is_behind(key, start, query.descending)]
        decided = _keys(sure, query.descending, start) if head_state else iter(())
        merged = merge(
            (key for key in decided if answers.get(key[1], True)),
            sorted(keys, reverse=query.descending),
            reverse=query.descending,
        )
        skipped = query.offset or 0 if start is None else 0
        wanted = islice(merged, skipped, skipped + query.limit + 1)
        return make_page([self._head(session_id) for _, session_id in wanted], query, total)

    def _shown_key(self, session_id: str, scope: Scope, query: SessionQuery) -> SortKey | None:
        """Return the key of a session, or None when no view of the query has it."""
        entry = self._catalog.entries.get(session_id)
        if (
            entry is None
            or not is_within(scope, entry.id, entry.relations)
            or not admits_archived(query, is_archived=entry.relations.is_archived)
        ):
            return None
        return _key_of(entry, query.sort_by)

    async def _filtered(
        self, view: _View, query: SessionQuery, presence: Presence, start: SortKey | None
    ) -> SessionPage:
        heads: list[SessionHead] = []
        total = 0
        skipped = query.offset or 0 if start is None else 0
        place = None if query.count else start
        while True:
            batch = list(islice(_keys(view, query.descending, place), _BATCH_ENTRIES))
            for key in batch:
                if not self._is_admitted(key[1], query, presence):
                    continue
                total += 1
                if start is not None and not _is_behind(key, start, query.descending):
                    continue
                if skipped:
                    skipped -= 1
                elif len(heads) <= query.limit:
                    heads.append(self._head(key[1]))
            enough = len(heads) > query.limit and not query.count
            if len(batch) < _BATCH_ENTRIES or enough:
                return make_page(heads, query, total if query.count else None)
            place = batch[-1]
            await anyio.lowlevel.checkpoint()

    def _is_admitted(self, session_id: str, query: SessionQuery, presence: Presence) -> bool:
        """Return whether the filters admit a session.

        Do not make its head where possible: most sessions are only counted, or not even that.
        """
        entry = self._catalog.entries.get(session_id)
        if entry is None or not admits_relations(query, entry.id, entry.relations):
            return False
        if query.active_after is not None and entry.activity <= query.active_after:
            return False
        if query.metadata and not _may_have_metadata(entry, query.metadata):
            return False
        if entry.raw is not None and query.shared_with is None:
            is_admitted = admits_stored(query, codec.decode(entry.raw), entry.activity)
        else:
            is_admitted = admits_content(query, entry.own_head())
        return is_admitted and (
            query.state is None or state_of(entry.own_head(), presence) == query.state
        )

    def _head(self, session_id: str) -> SessionHead:
        return self._catalog.entries[session_id].own_head()

    async def _current(
        self, query: SessionQuery, *head_states: HeadState | None
    ) -> tuple[Scope, list[_View]]:
        """Return current views of the query: no `await` follows the last update of any of them."""
        while True:
            self._distribute_changes()
            if not self._relations.update(_BATCH_ENTRIES):
                await anyio.lowlevel.checkpoint()
                continue
            scope = self._relations.scope_of(query)
            # Looked up again each time: while this waits, other queries may evict a view.
            views = [self._view(query, scope, head_state) for head_state in head_states]
            for view, head_state in zip(views, head_states, strict=True):
                if view.stale:
                    await self._update(view, scope, query, head_state)
                    break
            else:
                return scope, views

    def _view(self, query: SessionQuery, scope: Scope, head_state: HeadState | None) -> _View:
        name = (scope, archived_mode(query), query.sort_by, head_state)
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = _View()
            view.stale.update(self._relations.ids_of(scope))
            if len(self._views) > _VIEWS_MAX:
                self._views.popitem(last=False)
        self._views.move_to_end(name)
        return view

    def _distribute_changes(self) -> None:
        changed = self._catalog.changed
        if changed:
            self._relations.note(changed)
            for view in self._views.values():
                view.stale |= changed
            changed.clear()

    async def _update(
        self, view: _View, scope: Scope, query: SessionQuery, head_state: HeadState | None
    ) -> None:
        batch = [view.stale.pop() for _ in range(min(len(view.stale), _BATCH_ENTRIES))]
        fresh: list[SortKey] = []
        for session_id in batch:
            entry = self._catalog.entries.get(session_id)
            is_of_it = head_state is None or (entry is not None and entry.head_state == head_state)
            key = self._shown_key(session_id, scope, query) if is_of_it else None
            known = view.by_id.get(session_id)
            if key == known:
                continue
            if known is not None:
                view.keys.remove(known)
                del view.by_id[session_id]
            if key is not None:
                view.by_id[session_id] = key
                fresh.append(key)
        view.keys.update(fresh)
        if view.stale:
            await anyio.lowlevel.checkpoint()


def _may_have_metadata(entry: Entry, wanted: tuple[tuple[str, str], ...]) -> bool:
    """Return whether an entry may have these pairs: decoding a stored head takes far longer."""
    raw = entry.raw
    if raw is None:
        return True
    try:
        return all(codec.encode(key) + b":" in raw for key, _ in wanted) and all(
            codec.encode(value)[1:-1] in raw for _, value in wanted
        )
    except TypeError:
        # No stored text is like that.
        return False


def _is_covered(query: SessionQuery, scope: Scope) -> bool:
    """Return whether the view's scope is the only filter by owner or tree."""
    wanted = (query.parent_id, query.root_id, query.user_id)
    return sum(value is not None for value in wanted) == (scope is not None)


def _key_of(entry: Entry, sort_by: str) -> SortKey:
    if sort_by == "last_activity_at":
        return (entry.activity, entry.id)
    if entry.head is not None:
        return sort_key(entry.head, sort_by)
    assert entry.raw is not None
    # Stored heads omit fields that have their default value.
    value = codec.decode(entry.raw).get(sort_by)
    return (value or ("" if sort_by == "title" else 0), entry.id)


def _keys(view: _View, descending: bool, start: SortKey | None) -> Iterator[SortKey]:
    if start is None:
        return reversed(view.keys) if descending else iter(view.keys)
    if descending:
        return view.keys.irange(maximum=start, inclusive=(True, False), reverse=True)
    return view.keys.irange(minimum=start, inclusive=(False, True))


def _is_behind(key: SortKey, start: SortKey, descending: bool) -> bool:
    return key < start if descending else key > start

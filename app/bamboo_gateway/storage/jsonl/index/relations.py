"""The sessions of each user, parent, root and share, so that their lists cost what they show.

A session that is shared is listed under `shared_with` for each user that it is shared with.

The views update this index on the loop's thread, from the ids that changed since its last use.
"""

from bamboo_gateway.storage.jsonl.index.catalog import Catalog
from bamboo_gateway.storage.listing import Relations
from bamboo_gateway.storage.reports import SessionQuery

# A field of the relations and its value, by which sessions are grouped; None for all sessions.
Scope = tuple[str, str] | None


class RelationIndex:
    """The index. A session alone in its tree is its own root, and needs no entry for that."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, Relations] = {}
        self._ids: dict[tuple[str, str], set[str]] = {}
        # The sessions to look at. At first these are all sessions; the first query looks
        # at them, a limited number at a time.
        self.stale: set[str] | None = None

    def note(self, changed: set[str]) -> None:
        """Note changed sessions; before the first query nothing needs to be noted."""
        if self.stale is not None:
            self.stale |= changed

    def update(self, limit: int) -> bool:
        """Look at up to `limit` of the changed sessions; return whether none is left."""
        if self.stale is None:
            self.stale = set(self._catalog.entries)
        for _ in range(min(limit, len(self.stale))):
            self._update_session(self.stale.pop())
        return not self.stale

    def _update_session(self, session_id: str) -> None:
        entry = self._catalog.entries.get(session_id)
        relations = entry.relations if entry is not None else None
        known = self._known.get(session_id)
        if relations == known:
            return
        if known is not None:
            del self._known[session_id]
            for scope in _scopes(session_id, known):
                ids = self._ids[scope]
                ids.discard(session_id)
                if not ids:
                    del self._ids[scope]
        if relations is not None:
            self._known[session_id] = relations
            for scope in _scopes(session_id, relations):
                self._ids.setdefault(scope, set()).add(session_id)

    def scope_of(self, query: SessionQuery) -> Scope:
        """Return the filter of the query that selects the fewest sessions."""
        scopes = [
            (name, value)
            for name in ("parent_id", "root_id", "user_id", "shared_with")
            if (value := getattr(query, name)) is not None
        ]
        return min(scopes, key=lambda scope: len(self._ids.get(scope, ())), default=None)

    def ids_of(self, scope: Scope) -> list[str]:
        """Return the ids of the sessions in a scope."""
        if scope is None:
            return list(self._catalog.entries)
        ids = list(self._ids.get(scope, ()))
        if scope[0] == "root_id" and scope[1] in self._catalog.entries:
            ids.append(scope[1])
        return ids


def is_within(scope: Scope, session_id: str, relations: Relations) -> bool:
    """Return whether a session is in a scope; the root of a tree is in the tree's scope."""
    if scope is None:
        return True
    name, value = scope
    if name == "shared_with":
        return value in relations.shared_with
    return getattr(relations, name) == value or (name == "root_id" and session_id == value)


def _scopes(session_id: str, relations: Relations) -> list[tuple[str, str]]:
    scopes = [("shared_with", user_id) for user_id in relations.shared_with]
    if relations.user_id is not None:
        scopes.append(("user_id", relations.user_id))
    if relations.parent_id is not None:
        scopes.append(("parent_id", relations.parent_id))
    if relations.root_id != session_id:
        scopes.append(("root_id", relations.root_id))
    return scopes

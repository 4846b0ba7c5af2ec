"""Which sessions a user, a parent or a root has: so that their lists cost what they show.

A session that is shared is among those of `shared_with` for each user it is shared with.

Kept by the views on the loop's thread, from the ids that changed since the last look.
"""

from bamboo_gateway.storage.base import SessionQuery
from bamboo_gateway.storage.jsonl.index.catalog import Catalog
from bamboo_gateway.storage.listing import Origin

# The field of an origin that a list is kept by, and its value; None: all sessions.
Scope = tuple[str, str] | None


class RelationIndex:
    """See the module. A session that is alone in its tree is its own root: that needs no entry."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, Origin] = {}
        self._ids: dict[tuple[str, str], set[str]] = {}
        # Everything there is at first: brought up in turns by whoever asks first.
        self.stale: set[str] | None = None

    def note(self, changed: set[str]) -> None:
        """Hear of sessions that changed; before the first look there is nothing to change."""
        if self.stale is not None:
            self.stale |= changed

    def bring_up(self, turn: int) -> bool:
        """Look at so many that changed; return whether that was all."""
        if self.stale is None:
            self.stale = set(self._catalog.entries)
        for _ in range(min(turn, len(self.stale))):
            self._look_at(self.stale.pop())
        return not self.stale

    def _look_at(self, session_id: str) -> None:
        entry = self._catalog.entries.get(session_id)
        origin = entry.origin if entry is not None else None
        known = self._known.get(session_id)
        if origin == known:
            return
        if known is not None:
            del self._known[session_id]
            for scope in _scopes(session_id, known):
                ids = self._ids[scope]
                ids.discard(session_id)
                if not ids:
                    del self._ids[scope]
        if origin is not None:
            self._known[session_id] = origin
            for scope in _scopes(session_id, origin):
                self._ids.setdefault(scope, set()).add(session_id)

    def scope_of(self, query: SessionQuery) -> Scope:
        """Return the filter of the query that admits the fewest."""
        scopes = [
            (name, value)
            for name in ("parent_id", "root_id", "user_id", "shared_with")
            if (value := getattr(query, name)) is not None
        ]
        return min(scopes, key=lambda scope: len(self._ids.get(scope, ())), default=None)

    def ids_of(self, scope: Scope) -> list[str]:
        """Return the sessions in a scope."""
        if scope is None:
            return list(self._catalog.entries)
        ids = list(self._ids.get(scope, ()))
        if scope[0] == "root_id" and scope[1] in self._catalog.entries:
            ids.append(scope[1])
        return ids


def is_within(scope: Scope, session_id: str, origin: Origin) -> bool:
    """Return whether a session is in a scope; the one a tree is asked for by is in it."""
    if scope is None:
        return True
    name, value = scope
    if name == "shared_with":
        return value in origin.shared_with
    return getattr(origin, name) == value or (name == "root_id" and session_id == value)


def _scopes(session_id: str, origin: Origin) -> list[tuple[str, str]]:
    scopes = [("shared_with", user_id) for user_id in origin.shared_with]
    if origin.user_id is not None:
        scopes.append(("user_id", origin.user_id))
    if origin.parent_id is not None:
        scopes.append(("parent_id", origin.parent_id))
    if origin.root_id != session_id:
        scopes.append(("root_id", origin.root_id))
    return scopes

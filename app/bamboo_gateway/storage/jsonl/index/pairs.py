"""The sessions with each pair of metadata, so that lists by metadata decode no heads.

It is made with the first such list, and updated before each one from the ids that changed since.
"""

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.listing import metadata_pairs

Pair = tuple[str, str]


class PairIndex:
    """The index; used on the loop's thread alone."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, tuple[Pair, ...]] = {}
        self._ids: dict[Pair, set[str]] = {}
        # The sessions to look at; None before the first list by metadata.
        self._stale: set[str] | None = None

    def note(self, changed: set[str]) -> None:
        """Note changed sessions; before the first list nothing needs to be noted."""
        if self._stale is not None:
            self._stale |= changed

    def update(self, limit: int) -> bool:
        """Look at up to `limit` of the changed sessions; return whether none is left."""
        if self._stale is None:
            self._stale = set(self._catalog.entries)
        for _ in range(min(limit, len(self._stale))):
            self._update_session(self._stale.pop())
        return not self._stale

    def ids_of(self, wanted: tuple[Pair, ...]) -> set[str]:
        """Return the sessions that have all of these pairs."""
        sets = [self._ids.get(pair, set()) for pair in wanted]
        return set.intersection(*sorted(sets, key=len))

    def _update_session(self, session_id: str) -> None:
        entry = self._catalog.entries.get(session_id)
        pairs = _pairs_of(entry) if entry is not None else ()
        known = self._known.get(session_id, ())
        if pairs == known:
            return
        for pair in known:
            left = self._ids[pair]
            left.discard(session_id)
            if not left:
                del self._ids[pair]
        for pair in pairs:
            self._ids.setdefault(pair, set()).add(session_id)
        if pairs:
            self._known[session_id] = pairs
        else:
            self._known.pop(session_id, None)


def _pairs_of(entry: Entry) -> tuple[Pair, ...]:
    if entry.head is not None:
        metadata = entry.head.metadata
    elif entry.raw is None or b'"metadata":' not in entry.raw:
        return ()
    else:
        metadata = codec.decode(entry.raw).get("metadata") or {}
    return tuple(dict.fromkeys(metadata_pairs(metadata))) if metadata else ()

"""Searches: what the search index found, checked against the catalog and the logs."""

from collections.abc import Iterable

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import Presence, SessionHead
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import ErasedError
from bamboo_gateway.storage.jsonl.index.cold_list import head_now
from bamboo_gateway.storage.jsonl.mark_search import Search
from bamboo_gateway.storage.jsonl.reads import Reads
from bamboo_gateway.storage.jsonl.search_index import SearchIndex
from bamboo_gateway.storage.listing import admits_relations, list_page
from bamboo_gateway.storage.reports import (
    SearchHit,
    SearchPage,
    SearchQuery,
    SessionPage,
    SessionQuery,
)
from bamboo_gateway.storage.searching import make_search_cursor

_BODY_BYTES_MAX = 1 << 62


class Searches:
    """Answers searches; all methods are called on the loop's thread."""

    def __init__(
        self, catalog: Catalog, catalog_file: CatalogFile, reads: Reads, index: SearchIndex
    ) -> None:
        self._catalog = catalog
        self._catalog_file = catalog_file
        self._reads = reads
        self._index = index

    async def search(self, query: SearchQuery) -> SearchPage:
        """Find messages as `SessionStore.search` does."""
        found = await self._index.search(query)
        hits: list[SearchHit] = []
        size, last = 0, None
        for message in found.found:
            key = message.key
            hit = await self._hit(query, key.session_id, message.epoch, key.seq)
            if hit is None:
                continue
            size += len(hit.body)
            if last is not None and size > PAGE_BYTES_MAX:
                return SearchPage(hits, make_search_cursor(last), has_more=True)
            hits.append(hit)
            last = key
        return SearchPage(hits, found.next_cursor, found.next_cursor is not None)

    async def _hit(
        self, query: SearchQuery, session_id: str, epoch: int, seq: int
    ) -> SearchHit | None:
        """Return a message; None when its session was deleted or changed its owner meanwhile."""
        search = Search("message", None, seq - 1, seq + 1, 1, _BODY_BYTES_MAX, reverse=False)
        try:
            entry = self._reads.entry(session_id, epoch)
            found = await self._reads.find(session_id, epoch, search)
        except Conflict:
            return None
        if not found or not self._is_admitted(query, entry):
            return None
        head = await self._reads.load(session_id)
        if head is None or head.epoch != epoch:
            return None
        return SearchHit(session_id, epoch, head.title, seq, found[0].body)

    def _is_admitted(self, query: SearchQuery, entry: Entry) -> bool:
        relations = entry.relations
        return query.user_id in {None, relations.user_id} and query.archived in {
            "include",
            "only" if relations.is_archived else "exclude",
        }

    async def query(self, query: SessionQuery, presence: Presence) -> SessionPage:
        """List the sessions with a message that has the terms, as `SessionStore.query` does."""
        names = await self._index.sessions_with(query.terms, query.user_id)
        entries = [
            entry
            for name in names
            if (entry := self._catalog.entries.get(name)) is not None
            and admits_relations(query, entry.id, entry.relations)
        ]
        heads = await self._reads.run(self._heads, entries)
        heads = [head for head in heads if head.id in self._catalog.entries]
        return await self._reads.run(list_page, heads, query, presence)

    def _heads(self, entries: Iterable[Entry]) -> list[SessionHead]:
        heads: list[SessionHead] = []
        for entry in entries:
            try:
                heads.append(head_now(self._catalog_file, entry))
            except ErasedError:
                continue
        return heads

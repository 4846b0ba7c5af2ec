"""Lists of sessions without an index in memory: the catalog file is read in a thread."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from heapq import nlargest, nsmallest
from typing import Any

import anyio.lowlevel

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import Presence, SessionHead, state_of
from bamboo_gateway.storage.jsonl.index.catalog import Catalog, Entry
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import ErasedError
from bamboo_gateway.storage.listing import (
    SortKey,
    admits,
    admits_relations,
    archived_mode,
    is_filtered,
    list_page,
    make_page,
    read_cursor,
    sort_key,
)
from bamboo_gateway.storage.reports import SessionPage, SessionQuery

# As in `views`: the heads looked at before yielding to the loop.
_BATCH_ENTRIES = 1000


async def list_cold(
    catalog: Catalog,
    catalog_file: CatalogFile,
    query: SessionQuery,
    presence: Presence,
    reading: Callable[..., Awaitable[Any]],
) -> SessionPage:
    """List as `SessionStore.query` does; `reading` runs a function in the readers' pool."""
    entries = [e for e in catalog.entries.values() if admits_relations(query, e.id, e.relations)]
    if not is_filtered(query):
        return await _list_by_keys(catalog, catalog_file, entries, query, reading)
    warm = [entry.own_head() for entry in entries if entry.has_head]
    cold = [entry for entry in entries if not entry.has_head]
    heads: list[SessionHead] = await reading(_admitted, catalog_file, warm, cold, query)
    # Heads that came into memory while the file was read: the file had older ones.
    fresh = {entry.id: entry.own_head() for entry in cold if entry.has_head}
    heads = [head for head in heads if head.id not in fresh]
    heads += [head for head in fresh.values() if admits(query, head)]
    heads = [head for head in heads if head.id in catalog.entries]
    if query.state is not None:
        heads = await _in_state(heads, query, presence)
        query = replace(query, state=None, archived=archived_mode(query))
    return await reading(list_page, heads, query, presence)  # type: ignore[no-any-return]


async def _list_by_keys(
    catalog: Catalog,
    catalog_file: CatalogFile,
    entries: list[Entry],
    query: SessionQuery,
    reading: Callable[..., Awaitable[Any]],
) -> SessionPage:
    """List without filters on content; make only the heads that the page shows."""
    start = read_cursor(query)
    chosen: list[SortKey] = await reading(_choose, catalog_file, entries, query, start)
    heads: list[SessionHead] = []
    for _, session_id in chosen:
        entry = catalog.entries.get(session_id)
        if entry is None:
            continue
        if entry.has_head:
            heads.append(entry.own_head())
            continue
        with suppress(ErasedError):
            heads.append(await reading(head_now, catalog_file, entry))
    return make_page(heads, query, len(entries) if query.count else None)


def _choose(
    catalog_file: CatalogFile, entries: list[Entry], query: SessionQuery, start: SortKey | None
) -> list[SortKey]:
    keys = _keys(catalog_file, entries, query.sort_by)
    if start is not None and query.descending:
        keys = (key for key in keys if key < start)
    elif start is not None:
        keys = (key for key in keys if key > start)
    skipped = query.offset or 0 if start is None else 0
    best = nlargest if query.descending else nsmallest
    return best(skipped + query.limit + 1, keys)[skipped:]


def _keys(catalog_file: CatalogFile, entries: list[Entry], sort_by: str) -> Iterator[SortKey]:
    if sort_by == "last_activity_at":
        yield from ((entry.activity, entry.id) for entry in entries)
        return
    default: int | str = "" if sort_by == "title" else 0
    missing = {entry.id: entry for entry in entries}
    for entry, raw in catalog_file.heads_of(entries):
        # Stored heads omit fields that have their default value.
        yield (codec.decode(raw).get(sort_by) or default, entry.id)
        del missing[entry.id]
    for entry in missing.values():
        with suppress(ErasedError):
            yield sort_key(head_now(catalog_file, entry), sort_by)


def head_now(catalog_file: CatalogFile, entry: Entry) -> SessionHead:
    """Return a head from memory or file; it may come into memory and leave it at any moment.

    Raises:
        ErasedError: The session was deleted.
    """
    while True:
        head, raw = entry.head, entry.raw
        if head is not None:
            return entry.updated(head.copy())
        if raw is not None:
            return entry.updated(SessionHead.of(codec.decode(raw)))
        seq = entry.seq
        stored = catalog_file.head_of(entry)
        # Otherwise the entry has changed meanwhile, and this may be an older head.
        if stored is not None and entry.seq == seq:
            return entry.updated(stored)


def _admitted(
    catalog_file: CatalogFile, warm: list[SessionHead], cold: list[Entry], query: SessionQuery
) -> list[SessionHead]:
    heads = [head for head in warm if admits(query, head)]
    for entry, raw in catalog_file.heads_of(cold):
        head = entry.updated(SessionHead.of(codec.decode(raw)))
        if admits(query, head):
            heads.append(head)
    return heads


async def _in_state(
    heads: list[SessionHead], query: SessionQuery, presence: Presence
) -> list[SessionHead]:
    found: list[SessionHead] = []
    for start in range(0, len(heads), _BATCH_ENTRIES):
        batch = heads[start : start + _BATCH_ENTRIES]
        found += [head for head in batch if state_of(head, presence) == query.state]
        await anyio.lowlevel.checkpoint()
    return found

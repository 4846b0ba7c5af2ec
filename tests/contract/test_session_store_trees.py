"""Lists by tree, parent and archive, over every store."""

from typing import Any, Literal

import pytest

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.contract.test_session_store_lists import all_pages, ids
from tests.storage.writing import NOBODY, T0, Writer, committed


def state_change(to: str) -> dict[str, Any]:
    return {"type": "state_change", "from": "idle", "to": to}


async def grow(store: SessionStore) -> dict[str, Writer]:
    """Two trees of ten (each the child of the one before), and ten sessions that stand alone."""
    epoch = store.next_epoch()
    writers: dict[str, Writer] = {}
    for tree in ("oak", "elm", "none"):
        path: list[dict[str, Any]] = []
        for number in range(10):
            name = f"{tree}-{number}"
            writer = Writer(name, epoch, T0 + number * 1000)
            created = {
                "type": "session_created",
                "user_id": "even" if number % 2 == 0 else "odd",
                "parent": {"session_id": path[-1]["session_id"]} if path else None,
                "ancestors": list(path),
            }
            if tree != "none":
                path.append({"session_id": name, "title": None, "forked_at": None})
            await committed(store, writer.commit(created))
            if number in {0, 3, 4}:
                await committed(store, writer.commit(state_change("archived")))
            writers[name] = writer
    return writers


@pytest.mark.parametrize(
    ("filters", "admitted"),
    [
        ({"root_id": "oak-0"}, [f"oak-{n}" for n in (1, 2, 5, 6, 7, 8, 9)]),
        ({"root_id": "oak-0", "archived": "include"}, [f"oak-{n}" for n in range(10)]),
        ({"root_id": "oak-0", "archived": "only"}, ["oak-0", "oak-3", "oak-4"]),
        ({"root_id": "oak-0", "state": "archived"}, ["oak-0", "oak-3", "oak-4"]),
        ({"root_id": "none-1"}, ["none-1"]),
        ({"root_id": "oak-2"}, ["oak-2"]),
        ({"root_id": "nobody", "archived": "include"}, []),
        ({"parent_id": "elm-4"}, ["elm-5"]),
        ({"parent_id": "elm-2"}, []),
        ({"parent_id": "elm-2", "archived": "include"}, ["elm-3"]),
        (
            {"root_id": "elm-0", "user_id": "odd", "archived": "include"},
            ["elm-1", "elm-3", "elm-5", "elm-7", "elm-9"],
        ),
        ({"root_id": "elm-0", "user_id": "odd", "created_after": T0 + 5000}, ["elm-7", "elm-9"]),
    ],
)
async def test_trees_parents_and_archives_are_listed_as_asked(
    store: SessionStore, second_path: Reopen, filters: dict[str, Any], admitted: list[str]
) -> None:
    """R11: from an index; each page is whole and counts what it admits."""
    writers = await grow(store)
    options = {"sort_by": "created_at", "descending": False, **filters}
    async for seen in both_paths(store, second_path):
        page = await seen.query(SessionQuery(**options), NOBODY)
        assert ids(page) == admitted
        assert page.total == len(admitted)
        assert page.heads == [writers[name].head for name in admitted]
        if "state" not in filters:
            assert await all_pages(seen, 3, **options) == admitted


async def test_archived_sessions_are_out_of_lists_unless_asked_for(
    store: SessionStore, second_path: Reopen
) -> None:
    await grow(store)
    async for seen in both_paths(store, second_path):
        modes: list[tuple[Literal["exclude", "only", "include"], int]]
        modes = [("exclude", 21), ("only", 9), ("include", 30)]
        for mode, total in modes:
            page = await seen.query(SessionQuery(archived=mode), NOBODY)
            assert page.total == len(page.heads) == total
        page = await seen.query(SessionQuery(state="archived"), NOBODY)
        assert page.total == 9


async def test_a_tree_follows_what_was_forked_archived_and_deleted_since(
    store: SessionStore,
) -> None:
    writers = await grow(store)
    query = SessionQuery(root_id="oak-0", sort_by="created_at", descending=False)
    assert len(ids(await store.query(query, NOBODY))) == 7
    await committed(store, writers["oak-0"].commit(state_change("idle")))
    await committed(store, writers["oak-9"].commit(state_change("archived")))
    await store.delete("oak-5", writers["oak-5"].head.epoch)
    late = Writer("late", store.next_epoch(), T0 + 60_000)
    ancestors = [{"session_id": "oak-0", "title": None, "forked_at": None}]
    created = {"type": "session_created", "user_id": "u", "ancestors": ancestors}
    await committed(store, late.commit(created))
    page = await store.query(query, NOBODY)
    assert ids(page) == ["oak-0", "oak-1", "oak-2", "oak-6", "oak-7", "oak-8", "late"]
    assert page.total == 7

"""Lists filtered by metadata, over every store: the same sessions as looking at each of them."""

import random
from dataclasses import replace
from typing import Any

import pytest

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.contract.conftest import Reopen
from tests.contract.test_session_store_trees import state_change
from tests.storage.writing import NOBODY, Writer, committed, entries_of, message

KEYS = ("project", "tier", "n", "ok", "größe", 'qu"ote', "a:b", "nested")
VALUES: tuple[Any, ...] = (
    "alpha", "Alpha", "", "1", "true", "null", "sn\u2603w", 'x"y', "a\nb", "nul\0byte",
    1, 1.5, -3, True, False, None, {"a": "alpha"}, ["alpha"], 10**12,
)  # fmt: skip


def created(user_id: str, metadata: dict[str, Any]) -> dict[str, Any]:
    return {"type": "session_created", "user_id": user_id, "title": None, "metadata": metadata}


def changed(metadata: dict[str, Any]) -> dict[str, Any]:
    return {"type": "session_updated", "metadata": metadata}


def drawn(chance: random.Random) -> dict[str, Any]:
    return {key: chance.choice(VALUES) for key in chance.sample(KEYS, chance.randrange(5))}


def matches(head: SessionHead, wanted: tuple[tuple[str, str], ...]) -> bool:
    """Say again, in other words, what a filter means."""
    for key, text in wanted:
        if key not in head.metadata:
            return False
        match head.metadata[key]:
            case str(value):
                found: str | None = value
            case True:
                found = "true"
            case False:
                found = "false"
            case None:
                found = "null"
            case int(value) | float(value):
                found = repr(value)
            case _:
                found = None
        if found != text:
            return False
    return True


async def all_of(store: SessionStore, query: SessionQuery) -> list[SessionHead]:
    heads: list[SessionHead] = []
    while True:
        page = await store.query(query, NOBODY)
        heads += page.heads
        if not page.has_more:
            return heads
        query = replace(query, cursor=page.next_cursor)


async def fill(store: SessionStore, chance: random.Random) -> dict[str, Writer]:
    writers: dict[str, Writer] = {}
    for number in range(70):
        name = f"s-{number:03}"
        writer = writers[name] = Writer(name, store.next_epoch())
        commit = writer.commit(created("ann" if number % 3 else "bob", drawn(chance)))
        if number % 7 == 0:
            async with store.creation(name, writer.head.epoch) as creation:
                await creation.write(*entries_of(commit))
                await creation.publish(writer.head.copy())
        else:
            await committed(store, commit)
    for writer in writers.values():
        match chance.randrange(6):
            case 0:
                await committed(store, writer.commit(changed(drawn(chance))))
            case 1:
                await committed(store, writer.commit(message("m")))
            case 2:
                some = (
                    dict(chance.sample(list(writer.head.metadata.items()), 1))
                    if (writer.head.metadata)
                    else {}
                )
                await committed(store, writer.commit(changed({**some, "project": "alpha"})))
            case 3:
                await committed(store, writer.commit(state_change("archived")))
            case _:
                pass
    await store.delete("s-005", writers.pop("s-005").head.epoch)
    return writers


async def compare(store: SessionStore, writers: dict[str, Writer], led_max: int) -> None:
    chance = random.Random(led_max)
    wanted_pairs = [(key, text) for key in KEYS for text in ("alpha", "1", "true", "1.5", "null")]
    wanted_pairs += [("project", text) for text in ("Alpha", "", "sn\u2603w", 'x"y', "a\nb")]
    wanted_pairs += [("tier", text) for text in ("nul\0byte", "-3", "1000000000000", "no", "1.50")]
    filters: list[tuple[tuple[str, str], ...]] = [(pair,) for pair in wanted_pairs]
    filters += [tuple(chance.sample(wanted_pairs, 2)) for _ in range(4)]
    filters += [(("project", "alpha"), ("tier", "alpha")), (("n", "1"), ("n", "1"), ("ok", "true"))]
    for wanted in filters:
        for options in ({}, {"user_id": "ann"}, {"archived": "include", "sort_by": "created_at"}):
            query = SessionQuery(metadata=wanted, limit=4, **options)  # type: ignore[arg-type]
            found = await all_of(store, query)
            archived = options.get("archived") == "include"
            expected = {
                name
                for name, writer in writers.items()
                if matches(writer.head, wanted)
                and options.get("user_id") in (None, writer.head.user_id)
                and (archived or writer.head.logged_state != "archived")
            }
            assert [head.id for head in found] == list(dict.fromkeys(head.id for head in found))
            assert {head.id for head in found} == expected, (wanted, options)
            assert (await store.query(replace(query, limit=1), NOBODY)).total == len(expected)


@pytest.mark.parametrize("led_max", [3000, 0])
async def test_a_filter_by_metadata_finds_what_looking_at_each_session_finds(
    store: SessionStore, second_path: Reopen, monkeypatch: pytest.MonkeyPatch, led_max: int
) -> None:
    monkeypatch.setattr("bamboo_gateway.storage.index.plan.LED_MAX", led_max)
    writers = await fill(store, random.Random(5))
    await compare(store, writers, led_max)
    if led_max:
        await compare(await second_path(store), writers, led_max)

"""Values beside the sessions, over every store."""

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.storage.base import VALUE_KEY_CHARS_MAX, SessionStore, SupportsErasure
from bamboo_gateway.storage.reports import ValueChange
from tests.contract.conftest import Reopen, both_paths


async def test_a_value_is_what_was_written_last_byte_for_byte(
    store: SessionStore, second_path: Reopen
) -> None:
    binary = bytes(range(256)) * 40
    await store.write_values(
        [
            ValueChange("webhook", "a", b"first"),
            ValueChange("webhook", "a", b"second"),
            ValueChange("webhook", "b", b""),
            ValueChange("file", "a", binary),
            ValueChange("file", "gone", b"x"),
        ]
    )
    await store.write_values([ValueChange("file", "gone", None), ValueChange("file", "no", None)])
    async for seen in both_paths(store, second_path):
        assert await seen.value("webhook", "a") == b"second"
        assert await seen.value("webhook", "b") == b""
        assert await seen.value("file", "a") == binary
        assert await seen.value("file", "gone") is None
        assert await seen.value("nothing", "a") is None
        assert await seen.value_kinds() == ["file", "webhook"]


async def test_values_are_ordered_by_code_point_and_paged(
    store: SessionStore, second_path: Reopen
) -> None:
    keys = ["", "A", "B~", "Z", "_", "a", "a b", "a/", "a/1", "a/10", "a/2", "a/~", "a0", "b", "~"]
    shuffled = random.Random(3).sample(keys, len(keys))
    await store.write_values([ValueChange("k", key, key.encode()) for key in shuffled])
    # Neighbours that the answers must not have.
    await store.write_values([ValueChange(kind, "a/1", b"other") for kind in ("j", "kk", "l")])
    async for seen in both_paths(store, second_path):
        # The empty key is read by itself: `after` excludes it.
        assert await seen.value("k", "") == b""
        for prefix in ("", "a", "a/", "A", "~", "zz"):
            wanted = [(key, key.encode()) for key in keys if key.startswith(prefix) and key]
            assert await seen.values("k", prefix=prefix) == wanted
            for limit in (1, 2, 5):
                found, after = [], ""
                while page := await seen.values("k", prefix=prefix, after=after, limit=limit):
                    assert len(page) <= limit
                    found += page
                    after = page[-1][0]
                assert found == wanted


@pytest.mark.parametrize(
    ("kind", "key"),
    [("k", "é"), ("k", "a\0b"), ("k", "a\n"), ("", "a"), ("k", "x" * VALUE_KEY_CHARS_MAX)],
)
async def test_a_key_that_a_store_could_not_keep_is_refused_everywhere(
    store: SessionStore, kind: str, key: str
) -> None:
    with pytest.raises(ValueError, match="The kind and the key of a value"):
        await store.write_values([ValueChange("k", "good", b"x"), ValueChange(kind, key, b"x")])
    assert await store.value("k", "good") is None


async def test_calls_are_applied_in_their_order_however_many_wait(
    store: SessionStore, second_path: Reopen
) -> None:
    async def write(number: int) -> None:
        await store.write_values(
            [
                ValueChange("order", "same", b"%d" % number),
                ValueChange("order", f"own {number}", b"%d" % number),
                ValueChange("order", f"own {number - 1}", None),
            ]
        )

    async with asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(write(number))
    async for seen in both_paths(store, second_path):
        assert await seen.values("order") == [("own 199", b"199"), ("same", b"199")]


async def test_a_cancelled_call_happens_as_a_whole_or_not_at_all(store: SessionStore) -> None:
    for number in range(20):
        changes = [ValueChange("c", f"{number}-{part}", b"x") for part in range(5)]
        writing = asyncio.create_task(store.write_values(changes))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert len(await store.values("c", prefix=f"{number}-")) in (0, 5)


async def test_a_closed_store_writes_no_values(store: SessionStore) -> None:
    await store.aclose()
    with pytest.raises(Unavailable):
        await store.write_values([ValueChange("k", "a", b"x")])


async def test_a_vacuum_after_removing_values_names_a_clean_store(store: SessionStore) -> None:
    assert isinstance(store, SupportsErasure)
    await store.write_values([ValueChange("k", "a", b"secret" * 1000)])
    await store.write_values([ValueChange("k", "a", None)])
    assert await store.vacuum()
    assert await store.values("k") == []


KEYS = st.text(alphabet="ab/~ A0", max_size=4)
STEP = st.lists(st.tuples(st.sampled_from("xy"), KEYS, st.none() | st.binary(max_size=9)))


@given(steps=st.lists(STEP, max_size=8), prefix=KEYS, after=KEYS, limit=st.integers(1, 9))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_a_store_answers_as_a_dictionary_does(
    store: SessionStore,
    steps: list[list[tuple[str, str, bytes | None]]],
    prefix: str,
    after: str,
    limit: int,
) -> None:
    for kind in await store.value_kinds():
        while page := await store.values(kind):
            await store.write_values([ValueChange(kind, key, None) for key, _ in page])
        await store.write_values([ValueChange(kind, "", None)])
    model: dict[tuple[str, str], bytes] = {}
    for step in steps:
        await store.write_values([ValueChange(*change) for change in step])
        for kind, key, value in step:
            if value is None:
                model.pop((kind, key), None)
            else:
                model[kind, key] = value
    for kind in "xy":
        wanted = sorted(
            (key, value)
            for (of, key), value in model.items()
            if of == kind and key.startswith(prefix) and key > after
        )
        assert await store.values(kind, prefix=prefix, after=after, limit=limit) == wanted[:limit]
    for (kind, key), value in model.items():
        assert await store.value(kind, key) == value
    assert await store.value_kinds() == sorted({kind for kind, _ in model})

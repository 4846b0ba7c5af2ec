"""Erasure: single events leave a log, and everything else keeps its place; over every store."""

import pytest

from bamboo_gateway.domain.errors import Conflict
from bamboo_gateway.storage.base import SessionStore, SupportsErasure
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import Writer, committed, everything, message, token


@pytest.fixture
async def erasing(store: SessionStore) -> SessionStore:
    if not isinstance(store, SupportsErasure):
        pytest.skip("this store has no events removed")
    return store


async def test_removed_events_are_gone_and_all_others_keep_their_place(
    erasing: SessionStore, second_path: Reopen
) -> None:
    """R2, R3."""
    assert isinstance(erasing, SupportsErasure)
    writer = Writer("s-1", erasing.next_epoch())
    await committed(erasing, writer.commit(message("m1"), note="k1"))
    await committed(erasing, writer.commit({"type": "custom", "name": "zz"}, note="k2"))
    await committed(erasing, writer.commit(token("t"), message("m2"), message("m3")))
    epoch, before = writer.head.epoch, await everything(erasing, "s-1")
    # The last event stays: it shows where the log ends.
    await erasing.remove_events("s-1", epoch, [3, 5, 6])
    await erasing.remove_events("s-1", epoch, [3])
    kept = [record for record in before if record.seq not in {3, 5}]
    await committed(erasing, writer.commit(message("m4")))
    async for seen in both_paths(erasing, second_path):
        assert (await everything(seen, "s-1"))[:-1] == kept
        assert (await seen.load("s-1")) == writer.head
        found = await seen.find("s-1", epoch, "message")
        assert [record.seq for record in found] == [2, 6, 7]
        assert [record.seq for record in await seen.find("s-1", epoch, "note")] == [2, 2]


async def test_events_of_a_packed_or_another_session_are_not_removed(
    erasing: SessionStore,
) -> None:
    assert isinstance(erasing, SupportsErasure)
    writer = Writer("s-1", erasing.next_epoch())
    await committed(erasing, writer.commit(message("m1"), message("m2")))
    change = {"type": "state_change", "from": "idle", "to": "archived"}
    await committed(erasing, writer.commit(change))
    await erasing.pack("s-1", writer.head.epoch)
    for session_id, epoch in (("s-1", writer.head.epoch), ("s-1", 1), ("s-2", 1)):
        with pytest.raises(Conflict):
            await erasing.remove_events(session_id, epoch, [2])
    assert len(await everything(erasing, "s-1")) == writer.head.seq


async def test_a_vacuum_says_when_the_parts_of_the_store_are_clean(erasing: SessionStore) -> None:
    assert isinstance(erasing, SupportsErasure)
    parts = await erasing.vacuum()
    assert parts
    assert all(part.store and part.what and part.gone for part in parts)

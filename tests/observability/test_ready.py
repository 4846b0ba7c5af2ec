"""Readiness says which check failed."""

from pathlib import Path

import pytest

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.memory import MemoryStore
from tests.api.serving import refused, serving
from tests.faults.wire import metric


def test_a_store_that_cannot_write_is_not_ready_and_gives_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as served, served.client() as api:
        assert api.get("/health/ready").status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(MemoryStore, "is_writing", False)
            problem = refused(api.get("/health/ready"), 503, "unavailable")
            assert problem["check"] == "storage"
            assert api.get("/health/live").status_code == 200
            assert metric(api, "ready") == 0
        assert metric(api, "ready") == 1


async def test_files_are_written_from_the_opening_of_the_store_to_its_end(tmp_path: Path) -> None:
    store = JsonlStore(tmp_path, SystemClock())
    seen = [store.is_writing]
    await store.open()
    seen.append(store.is_writing)
    await store.aclose()  # which ends the committer's thread
    seen += [store.is_writing, store._committer.is_alive]
    assert seen == [False, True, False, False]

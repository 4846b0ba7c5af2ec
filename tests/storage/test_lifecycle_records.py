"""Changes that outlive their callers."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any, cast

import pytest

from bamboo_gateway.domain.errors import StorageFull
from bamboo_gateway.storage.jsonl.journal.committer import Committer
from bamboo_gateway.storage.jsonl.journal.lifecycle_records import LifecycleRecords


class Waiting:
    """A committer that carries out a change when the test says so."""

    def __init__(self) -> None:
        self.answers: list[Callable[[Any], None]] = []

    def change(self, _: Callable[[], Any], answer: Callable[[Any], None]) -> None:
        self.answers.append(answer)


async def test_a_change_that_fails_after_its_caller_has_left_is_not_reported_as_lost() -> None:
    lost: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: lost.append(context))
    committer = Waiting()
    records = LifecycleRecords(cast("Any", None), cast("Any", None), cast("Committer", committer))
    caller = asyncio.ensure_future(records.carry_out(lambda: None, lambda _: None))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    committer.answers.pop()(StorageFull("The disk is full."))
    await asyncio.sleep(0)
    gc.collect()
    assert not lost


async def test_a_caller_that_waits_gets_the_failure() -> None:
    committer = Waiting()
    records = LifecycleRecords(cast("Any", None), cast("Any", None), cast("Committer", committer))
    caller = asyncio.ensure_future(records.carry_out(lambda: None, lambda _: None))
    await asyncio.sleep(0)
    committer.answers.pop()(StorageFull("The disk is full."))
    with pytest.raises(StorageFull):
        await caller

"""A session of 100,000 messages: exported, forked and archived in bounded memory."""

import resource
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.lifecycle.bulk_creation import History
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.runs.factory import created_draft
from bamboo_gateway.storage.factory import make_store
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway, settings_of

MESSAGES = 100_000
TEXT = "A message of some length, as people and models write them. " * 5
GROWTH_BYTES_MAX = 64 * 1024 * 1024
"""Of a log of about 50 MB and what is made of it: pages and buffers, never the whole."""


async def fill(gate: Gateway) -> None:
    async def pages(_: int) -> Any:
        yield [created_draft(NewSession("large", title="Large"), None)]
        for start in range(0, MESSAGES, 1000):
            yield [
                message_draft(
                    Message(
                        id=f"msg_{number}",
                        role="user",
                        content=f"{number} {TEXT}",
                        created_at="2026-01-01T00:00:00.000Z",
                    )
                )
                for number in range(start, start + 1000)
            ]

    history = History(pages, lambda head: {"id": head.id})
    await gate.create_whole(ME, "large", history)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_messages_need_little_memory(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"storage_url": "jsonl:", "data_dir": tmp_path / "data"}
    clock = FakeClock()
    store = make_store(settings_of(**changed), clock)
    await store.open()
    figures: dict[str, tuple[float, int]] = {}
    try:
        async with gateway(store, clock=clock, export_dir=tmp_path / "out", **changed) as gate:
            life = gate.manager

            async def measured(name: str, call: Any) -> Any:
                tracemalloc.start()
                begun = time.perf_counter()
                result = await call
                seconds = time.perf_counter() - begun
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
                figures[name] = seconds, peak
                return result

            await measured("create", fill(gate))
            for form in ("markdown", "json", "yaml"):
                options = ExportOptions(form)
                path = f"large.{form}"
                await measured(f"export {form}", life.export_to_file(ME, "large", options, path))
            fork = await measured("fork", life.fork(ME, "large", Fork(new_id="child")))
            assert fork.answer["message_count"] == MESSAGES
            archived = await measured("archive", life.archive(ME, "large"))
            assert archived.answer["bytes"] < archived.answer["original_bytes"] / 4
            await measured("restore", life.restore(ME, "large"))
            head = await store.load("large")
            assert head is not None
            assert head.message_count == MESSAGES
    finally:
        await store.aclose()
    for name, (seconds, peak) in figures.items():
        print(f"{name:16} {seconds:6.2f} s  {peak / 1024 / 1024:6.1f} MiB (with tracemalloc)")
    print("resident at most", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "MiB")
    assert max(peak for _, peak in figures.values()) < GROWTH_BYTES_MAX

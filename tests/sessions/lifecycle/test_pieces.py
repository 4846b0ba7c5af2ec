"""R11: what goes through a whole session does so in pages of bounded bytes, one at a time."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.commits import Found
from bamboo_gateway.storage.factory import make_store
from tests.sessions.lifecycle.faults import NthFault
from tests.sessions.lifecycle.talk import ids, say, talk
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway, settings_of

MESSAGE_BYTES = 100_000
MESSAGES = 40


class Pages(NthFault):
    """Remembers the bytes of each page that was read, and may fail the nth."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.page_bytes: list[int] = []

    @override
    async def find(self, *args: Any, **named: Any) -> Found:
        if self.strike():
            raise StorageFailed("Broken on purpose.")
        page = await self.inner.find(*args, **named)
        self.page_bytes.append(sum(len(record.body) for record in page))
        return page

    def of_messages(self) -> list[int]:
        """Return the sizes of the pages since it was asked last, empty ones left out."""
        sizes, self.page_bytes = self.page_bytes, []
        return [size for size in sizes if size]


@pytest.fixture(params=["memory:", "jsonl:"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pages]:
    changed: dict[str, Any] = {"storage_url": request.param, "data_dir": tmp_path / "data"}
    store = Pages(make_store(settings_of(**changed), FakeClock()))  # type: ignore[abstract] # see there
    await store.open()
    yield store
    await store.aclose()


@pytest.fixture
async def gate(store: Pages, tmp_path: Path) -> AsyncIterator[Gateway]:
    async with gateway(store, clock=FakeClock(), export_dir=tmp_path / "out") as gate:
        await talk(gate, "s")
        text = "x" * MESSAGE_BYTES
        for start in range(0, MESSAGES, 10):
            said = [NewMessage("user", f"{number} {text}") for number in range(start, start + 10)]
            await say(gate, "s", *said)
        store.page_bytes.clear()
        yield gate


def assert_in_pieces(sizes: list[int]) -> None:
    assert max(sizes) <= BULK_PAGE_BYTES_MAX
    assert len(sizes) >= MESSAGES * MESSAGE_BYTES // BULK_PAGE_BYTES_MAX
    assert sum(sizes) < MESSAGES * (MESSAGE_BYTES + 1_000)


async def exported(gate: Gateway, form: Any) -> bytes:
    export = await gate.manager.export(ME, "s", ExportOptions(form))
    return b"".join([chunk async for chunk in export.chunks])


@pytest.mark.parametrize("form", ["markdown", "json", "yaml"])
async def test_an_export_reads_each_message_once_in_pages_of_bytes(
    gate: Gateway, store: Pages, form: str
) -> None:
    document = await exported(gate, form)
    for number in range(MESSAGES):
        assert b"%d %b" % (number, b"x" * MESSAGE_BYTES) in document
    assert_in_pieces(store.of_messages())


async def test_an_export_that_fails_at_any_page_has_no_end(gate: Gateway, store: Pages) -> None:
    """R9: a document that is cut is not read back."""
    whole = await exported(gate, "json")
    await gate.manager.export(ME, "s", ExportOptions("json"))
    failed = 0
    while True:
        export = await gate.manager.export(ME, "s", ExportOptions("json"))
        store.arm(failed + 1)
        pieces: list[bytes] = []
        try:
            async for chunk in export.chunks:
                pieces.append(chunk)  # noqa: PERF401 - what came before the failure is looked at
        except StorageFailed:
            assert whole.startswith(b"".join(pieces))
            assert b"message_count" not in b"".join(pieces)[-50:]
            failed += 1
            continue
        store.arm(None)
        break
    assert failed >= MESSAGES * MESSAGE_BYTES // BULK_PAGE_BYTES_MAX
    assert b"".join(pieces) == whole


async def test_a_fork_reads_each_message_once_in_pages_of_bytes(
    gate: Gateway, store: Pages
) -> None:
    await gate.manager.fork(ME, "s", Fork(new_id="c"))
    sizes = store.of_messages()
    # The last message is looked at twice more: where to cut, and whether it calls tools.
    assert_in_pieces(sizes[2:])
    assert await ids(gate, "c") == await ids(gate, "s")


async def test_a_fork_at_an_index_reads_no_more_than_lies_before_it(
    gate: Gateway, store: Pages
) -> None:
    for index in (0, 1, 12):
        store.page_bytes.clear()
        await gate.manager.fork(ME, "s", Fork(new_id=f"c{index}", message_index=index))
        sizes = store.of_messages()
        assert max(sizes) <= BULK_PAGE_BYTES_MAX
        # To find it, to look at its tool calls, and to copy what lies before it.
        assert sum(sizes) <= 3 * (index + 1) * (MESSAGE_BYTES + 1_000)
        assert await ids(gate, f"c{index}") == (await ids(gate, "s"))[: index + 1]


@pytest.mark.parametrize("strategy", ["append", "interleave", "replace"])
async def test_a_merge_reads_both_in_pages_of_bytes_and_is_seen_at_once(
    gate: Gateway, store: Pages, strategy: str
) -> None:
    """R9: others see all of it or nothing, however many MB it has."""
    await talk(gate, "t", "before")
    gate.clock.advance(1)
    await say(gate, "t", NewMessage("user", "after"))
    earlier = await ids(gate, "t")
    store.page_bytes.clear()
    answer = (await gate.manager.merge(ME, "t", Merge("s", strategy))).answer  # type: ignore[arg-type]
    sizes = store.of_messages()
    assert max(sizes) <= BULK_PAGE_BYTES_MAX
    # The source twice, to see what is to be said and to say it; and its end for open tool calls.
    assert sum(sizes) <= 2 * (MESSAGES + 2) * (MESSAGE_BYTES + 1_000) + BULK_PAGE_BYTES_MAX
    theirs = await ids(gate, "s")
    # Copies in a new branch have new ids, and say which messages they are copies of.
    said = [one.get("copied_from", one["id"]) for one in await gate.messages("t")]
    expected = {
        "append": [*earlier, *theirs],
        "interleave": [earlier[0], *theirs, earlier[1]],
        "replace": theirs,
    }
    assert answer["message_count"] == len(expected[strategy])
    assert said == expected[strategy]


@pytest.mark.parametrize("strategy", ["append", "interleave", "replace"])
async def test_a_merge_that_fails_at_any_page_changes_nothing(
    gate: Gateway, store: Pages, strategy: str
) -> None:
    """R9."""
    await talk(gate, "t", "before")
    before = await gate.log("t")
    failed = 0
    while True:
        store.arm(failed + 1)
        try:
            await gate.manager.merge(ME, "t", Merge("s", strategy))  # type: ignore[arg-type]
        except StorageFailed:
            store.arm(None)
            failed += 1
            assert await gate.log("t") == before
            continue
        store.arm(None)
        break
    assert failed > 3 * MESSAGES * MESSAGE_BYTES // BULK_PAGE_BYTES_MAX
    said = [one.get("copied_from", one["id"]) for one in await gate.messages("t")]
    assert said[-MESSAGES:] == await ids(gate, "s")
    await say(gate, "t", NewMessage("user", "on"))

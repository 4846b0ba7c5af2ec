"""Pages of messages, events and runs: bounded by bytes (R11), and nothing missed between them."""

import json

import pytest

from app.domain.events import Complete, Token
from app.domain.limits import MiB
from app.sessions.commands import Chat, NewMessage, NewSession
from tests.support.gateways import ME, Gateway, gateway

_PAGE_BYTES = 64 * 1024
# Many fit into a page, one does not, and one is over its bound by itself.
_LENGTHS = (100, 20_000, 20_000, 50_000, 60_000, 300_000, 10, 10, 10, 40_000, 40_000, 100)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few bytes are a long history."""
    monkeypatch.setattr("app.sessions.reading.PAGE_BYTES_MAX", _PAGE_BYTES)
    monkeypatch.setattr("app.sessions.reading.SCAN_BYTES_MAX", _PAGE_BYTES)


async def say(gate: Gateway, *lengths: int, session_id: str = "s") -> None:
    await gate.manager.get_or_create_session(ME, NewSession(id=session_id))
    for length in lengths:
        await gate.manager.add_messages(ME, session_id, [NewMessage("user", "x" * length)])


def bounded(bodies: list[bytes]) -> bool:
    return len(bodies) == 1 or sum(map(len, bodies)) <= _PAGE_BYTES


@pytest.mark.parametrize("limit", [2, 1000])
async def test_pages_of_messages_end_at_their_bytes_and_give_each_message_once(
    gate: Gateway, limit: int
):
    """R11."""
    await say(gate, *_LENGTHS)
    for descending in (False, True):
        shown: list[int] = []
        cursor: str | None = None
        while True:
            page = await gate.manager.messages(
                ME,
                "s",
                limit=limit,
                before=cursor if descending else None,
                after=None if descending else cursor,
                descending=descending,
            )
            assert bounded(page.messages)
            assert 1 <= len(page.messages) <= limit
            shown += [len(json.loads(message)["content"]) for message in page.messages]
            cursor = page.next_cursor
            assert page.has_more == (cursor is not None)
            if cursor is None:
                break
        assert shown == list(reversed(_LENGTHS) if descending else _LENGTHS)


@pytest.mark.parametrize("limit", [2, 1000])
async def test_pages_of_events_end_at_their_bytes_and_give_each_event_once(
    gate: Gateway, limit: int
):
    """R11."""
    await say(gate, *_LENGTHS)
    log = await gate.log()
    for types in (None, frozenset({"message"})):
        wanted = [event["seq"] for event in log if types is None or event["type"] in types]
        for descending in (False, True):
            shown: list[int] = []
            after: str | None = None
            while True:
                page = await gate.manager.events(
                    ME, "s", after=after, limit=limit, types=types, descending=descending
                )
                assert bounded(page.events)
                shown += [json.loads(event)["seq"] for event in page.events]
                after = page.next
                if not page.has_more:
                    break
            assert shown == (wanted[::-1] if descending else wanted)


async def test_events_before_a_wide_gap_are_found_from_the_end(gate: Gateway):
    await gate.chat(run_id="a")
    gate.agent.do("a", *[Token("word " * 100) for _ in range(3000)], Complete())
    await gate.ended("a")
    live = gate.live()
    assert await gate.store.compact("s", live.epoch, live.head.seq)
    kept = [event["seq"] for event in await gate.log()]
    assert kept[-1] - len(kept) > 2000
    shown: list[int] = []
    after: str | None = None
    while True:
        page = await gate.manager.events(ME, "s", after=after, limit=3, descending=True)
        shown += [json.loads(event)["seq"] for event in page.events]
        after = page.next
        if not page.has_more:
            break
    assert shown == kept[::-1]


async def test_a_run_whose_input_fills_pages_is_shown_with_its_end():
    """Its `run_queued` holds the input, and is longer than what one search gives."""
    async with gateway(max_event_bytes=16 * MiB) as gate:
        await gate.chat(run_id="a")
        await gate.manager.chat(
            ME,
            Chat(NewSession(id="s"), [NewMessage("user", "x" * (5 * MiB))], run_id="b"),
        )
        gate.agent.do("a", Complete())
        gate.agent.do("b", Token("answer"), Complete())
        run = await gate.ended("b")
        assert (run["status"], len(run["message_ids"])) == ("completed", 1)
        waited = await gate.manager.wait_run(ME, "s", "b", 0)
        assert waited.message is not None
        assert waited.message["content"] == "answer"
        runs = await gate.manager.runs(ME, "s")
        assert [run["status"] for run in runs.runs] == ["completed", "completed"]
        async with await gate.reader(run_id="b", after="0", until_complete=True) as reader:
            assert (await reader.take_all())[-1].type == "complete"

"""Pages of messages, events and runs: bounded by bytes (R11), and nothing missed between them."""

import json

import pytest

from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.history import PAGE
from tests.support.gateways import ME, Gateway, gateway

_PAGE_BYTES = 64 * 1024
# Many fit into a page, one does not, and one is over its bound by itself.
_LENGTHS = (100, 20_000, 20_000, 50_000, 60_000, 300_000, 10, 10, 10, 40_000, 40_000, 100)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that few bytes are a long history."""
    monkeypatch.setattr("bamboo_gateway.sessions.queries.PAGE_BYTES_MAX", _PAGE_BYTES)
    monkeypatch.setattr("bamboo_gateway.sessions.queries.SCAN_BYTES_MAX", _PAGE_BYTES)


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
            after: Position | None = None
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
    gate.agent.coalesce = False
    await gate.chat(run_id="a")
    gate.agent.do("a", *[Token("word " * 100) for _ in range(3000)], Complete())
    await gate.ended("a")
    live = gate.live()
    assert await gate.store.compact("s", live.epoch, live.head.seq)
    kept = [event["seq"] for event in await gate.log()]
    assert kept[-1] - len(kept) > 2000
    shown: list[int] = []
    after: Position | None = None
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


async def test_all_messages_of_a_session_come_in_pages(gate: Gateway):
    """R11: what is added meanwhile is not among them, as the session's position says."""
    await say(gate, *_LENGTHS)
    detail = await gate.manager.get_session(ME, "s", include_messages=True)
    assert detail.messages is not None
    shown: list[int] = []
    async for page in detail.messages:
        await say(gate, 1)
        assert len(page) <= PAGE
        shown += [len(json.loads(message)["content"]) for message in page]
    assert shown == list(_LENGTHS)
    empty = await gate.manager.create_session(ME, NewSession(id="empty"))
    detail = await gate.manager.get_session(ME, empty.answer["id"], include_messages=True)
    assert detail.messages is not None
    assert [page async for page in detail.messages] == []


@pytest.mark.parametrize("interactive", [True, False])
@pytest.mark.parametrize("summary", [None, 'In "short"\n…'])
@pytest.mark.parametrize("count", [0, 1, 2 * PAGE + 3])
async def test_a_conversation_is_resumed_in_pieces_that_are_one_document(
    gate: Gateway, count: int, summary: str | None, interactive: bool
):
    await say(gate, 3)
    if summary is not None:
        await gate.manager.save_summary(ME, "s", summary)
    texts = [f'"{number}"\n\\ 😀' for number in range(count)]
    for first in range(0, count, 100):
        given = [NewMessage("user", text) for text in texts[first : first + 100]]
        await gate.manager.add_messages(ME, "s", given)
    pieces = [piece async for piece in await gate.manager.resume(ME, "s", interactive=interactive)]
    message = json.loads(b"".join(pieces))["message"]
    said = [f"[user]\n{text}" for text in ([] if summary else ["xxx"]) + texts]
    parts = message["content"].split("\n\n")
    begin = [] if summary is None else parts[:2]
    assert summary is None or begin[1] == summary
    title = "The conversation so far:" if summary is None else "The turns since then:"
    rest = parts[len(begin) :] if interactive else parts[len(begin) : -1]
    assert rest == ([title, *said] if said else [])
    assert ("without asking" in parts[-1]) != interactive
    assert message["metadata"]["position"] == str(gate.live().head.position)
    assert count < PAGE or len(pieces) > count / PAGE

"""What an agent is given of a conversation, what of that is read, and who waits meanwhile."""

import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.agents.demo import DemoAgent
from bamboo_gateway.domain.events import AgentEvent, Complete
from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.projections import SYSTEM_SEQS_MAX
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.runs import conversation
from bamboo_gateway.storage.file_system import FileSystem
from tests.support.gateways import ME, Gateway, gateway


class LatestAgent(Agent):
    """Wants so many of the latest messages, and shows the turn that it got."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.asked: list[int] = []
        self.turn: Turn | None = None

    def is_enough(self, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
        if options.get("refused"):
            raise AgentError("No.", code="invalid_option")
        said = [message for message in messages if message.role != "system"]
        self.asked.append(len(said))
        return len(said) >= self.wanted

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        self.turn = turn
        yield Complete()


async def talk(gate: Gateway, count: int, session_id: str = "s", length: int = 10) -> None:
    """Add this many messages; every other message is the user's."""
    await gate.manager.get_or_create_session(ME, NewSession(id=session_id))
    for first in range(0, count, 500):
        said = [
            NewMessage("assistant" if n % 2 else "user", f"{n} " + "x" * length)
            for n in range(first, min(first + 500, count))
        ]
        await gate.manager.add_messages(ME, session_id, said)


async def turn_of(gate: Gateway, agent: LatestAgent, **options: Any) -> Turn:
    run = await gate.chat("s", "now", agent="latest", options=options)
    assert (await gate.ended(run["run_id"]))["status"] == "completed"
    assert agent.turn is not None
    return agent.turn


@pytest.mark.parametrize("wanted", [1, 100, 101, 450, 1000, 10**9])
async def test_an_agent_is_given_the_end_that_is_enough_for_it_and_told_what_is_left_out(
    wanted: int,
) -> None:
    agent = LatestAgent(wanted)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, 999)
        turn = await turn_of(gate, agent)
        everything = [*(await gate.messages())]
        assert len(everything) == 1000
    given = len(turn.messages)
    assert [m.id for m in turn.messages] == [one["id"] for one in everything[-given:]]
    assert given >= min(wanted, 1000)
    assert given == 1000 or given <= max(100, 2 * wanted)
    assert turn.left_out.messages == 1000 - given
    left = everything[: 1000 - given]
    assert turn.left_out.turns == sum(one["role"] == "user" for one in left)
    assert all(later >= 2 * earlier for earlier, later in pairwise(agent.asked))


async def test_system_messages_before_the_end_are_given_all_the_same() -> None:
    agent = LatestAgent(10)
    async with gateway(agents={"latest": agent}) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.manager.add_messages(ME, "s", [NewMessage("system", "First.")])
        await talk(gate, 300)
        await gate.manager.add_messages(ME, "s", [NewMessage("system", "Second.")])
        await talk(gate, 300)
        await gate.manager.add_messages(ME, "s", [NewMessage("system", "Third.")])
        turn = await turn_of(gate, agent)
        assert [m.text for m in turn.messages if m.role == "system"] == [
            "First.",
            "Second.",
            "Third.",
        ]
        assert [m.text for m in turn.messages[:2]] == ["First.", "Second."]
        assert len(turn.messages) + turn.left_out.messages == 604
        for _ in range(SYSTEM_SEQS_MAX):
            await gate.manager.add_messages(ME, "s", [NewMessage("system", "More.")])
        turn = await turn_of(gate, agent)
        assert len(turn.messages) == 605 + SYSTEM_SEQS_MAX, "too many to know: all is read"


async def test_what_an_agent_says_to_the_options_ends_the_run() -> None:
    agent = LatestAgent(1)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, 300)
        run = await gate.chat("s", "now", agent="latest", options={"refused": True})
        ended = await gate.ended(run["run_id"])
        assert ended["error"] == {"code": "invalid_option", "message": "No."}


class Reads:
    """Counts the bytes that are read from files."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes = 0
        real = FileSystem.pread

        def pread(fs: FileSystem, fd: int, size: int, offset: int) -> bytes:
            data = real(fs, fd, size, offset)
            self.bytes += len(data)
            return data

        patch.setattr(FileSystem, "pread", pread)


async def read_by_a_chat(
    reads: Reads, directory: Path, count: int, agent: Agent, *, summary: bool
) -> int:
    """Return what one chat reads that comes after so many messages, in a process that is fresh."""
    changed: dict[str, Any] = {"storage_url": "jsonl:", "data_dir": directory}
    async with gateway(agents={"it": agent}, **changed) as gate:
        await talk(gate, count, length=100)
        if summary:
            await gate.manager.save_summary(ME, "s", "In short.")
        await talk(gate, 50, length=100)
        await gate.chat("s", "now", agent="it", run_id="warm")
        await gate.ended("warm")
        reads.bytes = 0
        await gate.chat("s", "and now", agent="it", run_id="cold")
        await gate.ended("cold")
        taken = reads.bytes
        await gate.store.aclose()
    return taken


@pytest.mark.parametrize("summary", [True, False])
async def test_a_chat_reads_nothing_of_what_lies_before_a_summary_or_an_agents_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, summary: bool
) -> None:
    """R7, R12: twenty times the history costs it some bytes of marks, not its messages."""

    class Whole(Agent):
        @override
        async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
            assert len(turn.messages) <= 60
            yield Complete()

    reads = Reads(monkeypatch)

    async def taken(count: int) -> int:
        agent = Whole() if summary else DemoAgent()
        directory = tmp_path / str(count)
        return await read_by_a_chat(reads, directory, count, agent, summary=summary)

    short, long = await taken(400), await taken(8000)
    # 32 bytes a mark, for the count of what is left out.
    assert long - short < 40 * 8000
    assert long < 100 * 8000


async def test_long_conversations_are_decoded_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R12: on the loop's own thread is decoded what takes a fraction of a millisecond."""
    on_loop: list[int] = []
    elsewhere: list[int] = []
    loop_thread = threading.get_ident()

    for name in ("_messages_of", "_quoted"):
        real = getattr(conversation, name)

        def watched(bodies: list[bytes], real: Any = real) -> Any:
            place = on_loop if threading.get_ident() == loop_thread else elsewhere
            place.append(sum(map(len, bodies)))
            return real(bodies)

        monkeypatch.setattr(conversation, name, watched)
    agent = LatestAgent(10**9)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, 5000, length=100)
        turn = await turn_of(gate, agent)
        assert len(turn.messages) == 5001
        assert sum(elsewhere) > 5000 * 100
        elsewhere.clear()
        pieces = [piece async for piece in await gate.manager.resume(ME, "s")]
        assert len(pieces) > 10
        assert sum(elsewhere) > 5000 * 100
    assert max(on_loop, default=0) <= 64 * KiB


async def test_a_long_conversation_is_freed_in_turns_and_the_agents_list_is_its_own() -> None:
    """R12: between two pages others get their turn."""
    agent = LatestAgent(10**9)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, 5000)
        head = await gate.store.load("s")
        assert head is not None
        said = await conversation.agent_conversation(gate.store, head, head.seq + 1, agent, {})
        given = list(said.messages)
        left: list[int] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(said.let_go)
            while said.pages:
                left.append(sum(map(len, said.pages)))
                await checkpoint()
        assert len(left) >= 3
        assert max(more - fewer for more, fewer in pairwise([*left, 0])) <= 2000
        assert said.messages == given


@pytest.mark.parametrize("count", [0, 1, 100, 101])
async def test_a_short_conversation_in_memory_is_given_as_the_store_would_give_it(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = LatestAgent(10**9)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, count)
        writer = gate.live("s")
        options: dict[str, Any] = {}
        of_session = (gate.store, writer.head, writer.head.seq + 1, agent, options)
        read = await conversation.agent_conversation(*of_session)
        asked: list[str] = []
        find = type(gate.store).find

        async def watched(store: Any, session_id: str, *given: Any, **limits: Any) -> Any:
            asked.append(session_id)
            return await find(store, session_id, *given, **limits)

        monkeypatch.setattr(type(gate.store), "find", watched)
        taken = await conversation.agent_conversation(*of_session, writer.channel.queue)
        assert bool(asked) == (count > 100)
        assert taken.messages == read.messages
        assert taken.left_out == read.left_out
        assert len(taken.messages) == count


async def test_a_conversation_that_memory_has_in_part_is_read_from_the_store() -> None:
    agent = LatestAgent(10**9)
    async with gateway(agents={"latest": agent}) as gate:
        await talk(gate, 30, length=64 * KiB)
        turn = await turn_of(gate, agent)
        assert [m.id for m in turn.messages] == [one["id"] for one in await gate.messages()]
        assert len(turn.messages) == 31

"""Titles are given once, by the first message or an agent, and never over what somebody chose."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, AgentConfigError, AgentError, Turn
from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.events import AgentEvent, Complete, Failed, Token
from bamboo_gateway.sessions.commands import NewMessage, NewSession, Regenerate
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.runs import titling
from tests.support.gateways import ME, Gateway, eventually, gateway, quiet


class Titler(Agent):
    """Answers what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.answer: list[AgentEvent | Exception] = [Token("“A fine title”\n"), Token("and more")]
        self.turns: list[Turn] = []
        self.may_answer = anyio.Event()
        self.may_answer.set()

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        self.turns.append(turn)
        await self.may_answer.wait()
        for one in self.answer:
            if isinstance(one, Exception):
                raise one
            yield one


async def title(gate: Gateway, session_id: str = "s") -> str | None:
    found: str | None = (await gate.manager.get_session(ME, session_id)).session["title"]
    return found


async def answered(gate: Gateway, run_id: str, text: str = "How do I bake bread?") -> None:
    await gate.chat(run_id=run_id, text=text)
    gate.agent.do(run_id, Token("With flour."), Complete())
    await gate.ended(run_id)


async def first_message(gate: Gateway) -> str:
    return next(str(e["message_id"]) for e in await gate.log() if e["type"] == "message")


async def titles_in_log(gate: Gateway) -> list[Any]:
    return [e["title"] for e in await gate.log() if e["type"] == "session_updated"]


async def test_the_first_message_gives_the_title_in_the_commit_of_the_turn() -> None:
    async with gateway(titles="first_message") as gate:
        await gate.chat(run_id="r", text="  How do I\nbake bread?  ")
        types = await gate.types()
        assert types == ["session_created", "message", "run_start", "session_updated"]
        assert await title(gate) == "How do I bake bread?"
        await gate.finish_runs()
        await answered(gate, "r2", "And rolls?")
        assert await titles_in_log(gate) == ["How do I bake bread?"]


async def test_a_title_that_somebody_gave_or_took_away_stays() -> None:
    async with gateway(titles="first_message") as gate:
        await gate.manager.create_session(ME, NewSession(id="s", title="Mine"))
        await answered(gate, "r")
        assert await title(gate) == "Mine"
        await gate.manager.update_session(ME, "s", {"title": None})
        await answered(gate, "r2")
        assert await title(gate) is None


async def test_messages_without_a_run_and_those_of_queued_runs_give_a_title_too() -> None:
    async with gateway(titles="first_message") as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.manager.add_messages(ME, "s", [NewMessage("system", "x")])
        assert await title(gate) is None
        opened = (await gate.manager.open_run(ME, "s", "x")).answer
        await gate.chat(run_id="r", text="Queued")
        assert await title(gate) is None
        await gate.manager.cancel_run(ME, "s", opened["run_id"])
        await eventually(lambda: title(gate))
        assert await title(gate) == "Queued"
        await gate.manager.cancel_session(ME, "s")


async def test_titles_may_be_off() -> None:
    async with gateway(titles="off") as gate:
        await answered(gate, "r")
        assert await title(gate) is None


def with_titler(titler: Titler, **more: Any) -> Any:
    return gateway(titles="agent:titler", agents={"titler": titler}, **more)


async def test_an_agent_writes_the_title_after_the_first_answer_and_beside_the_log() -> None:
    titler = Titler()
    async with with_titler(titler) as gate:
        await gate.chat(run_id="r", text="How do I bake bread?")
        await quiet()
        assert titler.turns == []
        gate.agent.do("r", Token("With flour."), Complete())
        await eventually(lambda: title(gate))
        assert await title(gate) == "A fine title"
        assert [message.text for message in titler.turns[0].messages[:2]] == [
            "How do I bake bread?",
            "With flour.",
        ]
        assert await titles_in_log(gate) == ["A fine title"]
        assert len(await gate.messages()) == 2
        await answered(gate, "r2")
        await quiet()
        assert len(titler.turns) == 1
        assert await gate.store.values("untitled") == []


@pytest.mark.parametrize(
    "answer", [[AgentError("no")], [RuntimeError("no")], [Token(" \n")], [Token("x"), Failed("no")]]
)
async def test_when_the_agent_fails_the_first_message_gives_the_title(answer: list[Any]) -> None:
    titler = Titler()
    titler.answer = answer
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: title(gate))
        assert await title(gate) == "How do I bake bread?"


async def test_an_agent_that_takes_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R11: bounded time."""
    monkeypatch.setattr(titling, "ASK_SECONDS", 0)
    titler = Titler()
    titler.may_answer = anyio.Event()
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: title(gate))
        assert await title(gate) == "How do I bake bread?"


async def test_an_endless_answer_is_cut() -> None:
    """R11: bounded text."""
    titler = Titler()
    titler.answer = [Token("word " * 10)] * 1000
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: title(gate))
        assert len(await title(gate) or "") <= 60


async def test_a_title_given_while_the_agent_writes_stays() -> None:
    titler = Titler()
    titler.may_answer = anyio.Event()
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: titler.turns)
        await gate.manager.update_session(ME, "s", {"title": "Mine"})
        titler.may_answer.set()
        await quiet()
        assert await title(gate) == "Mine"
        assert await gate.store.values("untitled") == []


async def test_a_title_given_during_the_first_run_leaves_nothing_to_do() -> None:
    titler = Titler()
    async with with_titler(titler) as gate:
        await gate.chat(run_id="r")
        await quiet()
        await gate.manager.update_session(ME, "s", {"title": "Mine"})
        gate.agent.do("r", Token("x"), Complete())
        await gate.ended("r")
        await quiet()
        assert titler.turns == []
        assert await gate.store.values("untitled") == []


async def test_a_session_that_is_deleted_meanwhile_leaves_nothing() -> None:
    titler = Titler()
    titler.may_answer = anyio.Event()
    gate: Gateway
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: titler.turns)
        await gate.manager.delete_session(ME, "s")
        titler.may_answer.set()

        async def is_forgotten() -> bool:
            return await gate.store.values("untitled") == []

        await eventually(is_forgotten)


async def test_a_title_that_a_stop_prevented_is_given_after_the_next_start() -> None:
    """R10: the store remembers which session waits, so that no start looks at all of them."""
    titler = Titler()
    titler.may_answer = anyio.Event()
    async with with_titler(titler) as gate:
        await answered(gate, "r")
        await eventually(lambda: titler.turns)
        store = gate.store
        assert [key for key, _ in await store.values("untitled")] == ["s"]
    titler.may_answer.set()
    async with with_titler(titler, store=store) as gate:
        await eventually(lambda: title(gate))
        assert await title(gate) == "A fine title"
        assert len(titler.turns) == 2


async def test_a_failing_store_of_values_costs_no_run() -> None:
    titler = Titler()
    async with with_titler(titler) as gate:

        async def fail(_: object) -> None:
            raise StorageFailed("no")

        gate.store.inner.write_values = fail
        await answered(gate, "r")
        await eventually(lambda: title(gate))


async def test_a_setting_that_names_no_agent_stops_the_start() -> None:
    with pytest.raises(AgentConfigError):
        async with gateway(titles="agent:nobody"):
            pass


async def test_a_title_that_the_first_message_gave_stays_when_that_message_is_edited() -> None:
    """A title is given once: people know the session by it. In all branches it is the same."""
    async with gateway(titles="first_message") as gate:
        await answered(gate, "r")
        first = await first_message(gate)
        await gate.chat(run_id="edit", text="And cake?", edit_message_id=first)
        gate.agent.do("edit", Token("With eggs."), Complete())
        await gate.ended("edit")
        await gate.manager.regenerate(ME, "s", Regenerate(run_id="again"))
        gate.agent.do("again", Token("With more eggs."), Complete())
        await gate.ended("again")
        assert await title(gate) == "How do I bake bread?"
        assert await titles_in_log(gate) == ["How do I bake bread?"]


async def test_a_title_that_was_taken_away_does_not_come_back_with_an_edited_message() -> None:
    async with gateway(titles="first_message") as gate:
        await answered(gate, "r")
        await gate.manager.update_session(ME, "s", {"title": None})
        first = await first_message(gate)
        await gate.chat(run_id="edit", text="And cake?", edit_message_id=first)
        gate.agent.do("edit", Complete())
        await gate.ended("edit")
        assert await title(gate) is None


async def test_forks_imports_and_merges_keep_the_title_they_were_made_with() -> None:
    async with gateway(titles="first_message") as gate:
        await answered(gate, "r")
        await gate.manager.fork(ME, "s", Fork(new_id="f"))
        forked = await title(gate, "f")
        await gate.chat("f", run_id="f1", text="Something else")
        gate.agent.do("f1", Complete())
        await gate.ended("f1", "f")
        assert await title(gate, "f") == forked
        export = await gate.manager.export(ME, "s", ExportOptions("json"))
        body = b"".join([chunk async for chunk in export.chunks])
        made = (await gate.manager.import_document(ME, body)).answer["id"]
        assert await title(gate, made) == "How do I bake bread?"
        await gate.manager.create_session(ME, NewSession(id="m"))
        await gate.chat("m", run_id="m1", text="My own words")
        gate.agent.do("m1", Complete())
        await gate.ended("m1", "m")
        await gate.manager.merge(ME, "m", Merge("s", "append", "merge"))
        assert await title(gate, "m") == "My own words"


async def test_a_stream_has_the_title_as_an_event_of_its_turn() -> None:
    async with gateway(titles="first_message") as gate:
        await answered(gate, "r")
        reader = await gate.reader(after="0", until_complete=True, run_id="r")
        assert [
            frame.type for frame in await reader.take_all() if "seq" in frame.data
        ] == await gate.types()

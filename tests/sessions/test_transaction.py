"""A command goes one way: look up, access, decide without a change, commit, effects."""

import ast
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.errors import LimitReached, StorageFailed, Unavailable
from bamboo_gateway.domain.events import Complete, Draft, InputRequired
from bamboo_gateway.sessions import registry as registry_module
from bamboo_gateway.sessions import transaction
from bamboo_gateway.sessions.access import check_access
from bamboo_gateway.sessions.commands import (
    Chat,
    Idempotency,
    NewMessage,
    NewSession,
    Regenerate,
    StreamRequest,
)
from bamboo_gateway.sessions.extensions import put_extension
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.runs.chat import _ChatCommand
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decide, Decision, Effect
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, gateway

PACKAGE = "bamboo_gateway.sessions"


class Noted(Effect):
    """Notes when it is run."""

    def __init__(self, seen: list[str], is_durable: Callable[[], bool]) -> None:
        self._seen = seen
        self._is_durable = is_durable

    @override
    def decided(self) -> None:
        self._seen.append(f"decided, durable: {self._is_durable()}")

    @override
    def committed(self) -> None:
        self._seen.append(f"committed, durable: {self._is_durable()}")

    @override
    def undone(self) -> None:
        self._seen.append("undone")


def noting(gate: Gateway, seen: list[str]) -> Callable[[SessionWriter], Decision]:
    def decide(live: SessionWriter) -> Decision:
        seq = live.head.seq + 1
        effect = Noted(seen, lambda: live.durable_seq >= seq)
        return Decision([Draft("custom", {"name": "x", "value": 1})], {"n": 1}, (effect,))

    return decide


async def test_effects_run_once_decided_and_once_durable(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    seen: list[str] = []
    outcome = await gate.manager._transactions.run(ME, "s", noting(gate, seen))
    assert outcome.answer == {"n": 1}
    assert seen == ["decided, durable: False", "committed, durable: True"]


async def test_effects_of_a_caller_who_has_left_run_all_the_same(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    seen: list[str] = []
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(gate.manager._transactions.run, ME, "s", noting(gate, seen))
        await eventually(lambda: gate.store.held == 1)
        tasks.cancel_scope.cancel()
    gate.store.release_appends()
    await eventually(lambda: len(seen) == 2)
    assert seen[1] == "committed, durable: True"


async def test_effects_of_a_decision_that_is_not_stored_are_undone(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    seen: list[str] = []
    gate.store.fail_append()
    with pytest.raises(StorageFailed):
        await gate.manager._transactions.run(ME, "s", noting(gate, seen))
    assert seen == ["decided, durable: False", "undone"]


@pytest.mark.parametrize("on_busy", ["enqueue", "interrupt"])
@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_chat_is_decided_without_changing_anything(
    is_busy: bool, on_busy: Any, gate: Gateway
):
    await gate.manager.create_session(ME, NewSession(id="s"))
    if is_busy:
        await gate.chat(run_id="a")
    manager = gate.manager
    chat = Chat(NewSession(id="s"), [NewMessage("user", "hi")], run_id="r", on_busy=on_busy)
    command = _ChatCommand(manager._chats, ME, chat)
    async with manager._registry.use(ME, "s") as live:
        await live.settled()
        await command.prepare(live)
        before = shown(live)
        first, second = command.decide(live), command.decide(live)
        assert shown(live) == before
        assert [draft.type for draft in first.drafts] == [draft.type for draft in second.drafts]
        assert len(first.effects) == 1
    assert "r" not in gate.agent.scripts


def shown(live: SessionWriter) -> list[Any]:
    names = sorted(set(SessionWriter.__slots__) - {"head", "users"})
    values = [getattr(live, name) for name in names]
    return [
        repr(live.head),
        *(value.copy() if isinstance(value, dict | list) else value for value in values),
    ]


async def opened(gate: Gateway) -> None:
    await gate.manager.create_session(ME, NewSession(id="s"))


async def closed(gate: Gateway) -> None:
    await opened(gate)
    await gate.manager.close_session(ME, "s")


async def archived(gate: Gateway) -> None:
    await opened(gate)
    await gate.manager.archive(ME, "s")


async def spoken(gate: Gateway) -> None:
    await opened(gate)
    await gate.manager.add_messages(ME, "s", [NewMessage("user", "hi")])


async def branched(gate: Gateway) -> None:
    await spoken(gate)
    await gate.manager.regenerate(ME, "s", Regenerate(run_id="again"))
    gate.agent.do("again", Complete())
    await gate.ended("again")


async def asked(gate: Gateway) -> None:
    gate.agent.do("r1", InputRequired("Pay?", request_id="q1"), Complete(finish_reason="stop"))
    await gate.chat(run_id="r1")
    await gate.ended("r1")


async def summed_up(gate: Gateway) -> None:
    await spoken(gate)
    await gate.manager.save_summary(ME, "s", "short")


async def shared(gate: Gateway) -> None:
    await opened(gate)
    await gate.manager.share(ME, "s", NewShare())


async def ran(gate: Gateway) -> None:
    gate.agent.do("r1", Complete())
    await gate.chat(run_id="r1")
    await gate.ended("r1")


async def take_back(gate: Gateway) -> None:
    async with gate.manager._registry.use(ME, "s") as live:
        last = live.head.tip_id
    assert last is not None
    await gate.manager.hide_message(ME, "s", last)


async def absent(_gate: Gateway) -> None:
    pass


async def revoke(gate: Gateway) -> None:
    [share] = await gate.manager.shares(ME, "s")
    await gate.manager.revoke_share(ME, "s", share["id"])


Step = Callable[[Gateway], Awaitable[Any]]

KEY = Idempotency("k", "POST /x", "body")

COMMANDS: dict[str, tuple[Step, Step]] = {
    "branches.select": (
        branched,
        lambda gate: gate.manager.select_branch(ME, "s", "main"),
    ),
    "extensions.change_extensions": (
        opened,
        lambda gate: gate.manager.change_extensions(
            ME, "s", put_extension("memory", {"a": 1}, enabled=True)
        ),
    ),
    "hiding.hide_message": (spoken, take_back),
    "hiding.hide_run": (ran, lambda gate: gate.manager.hide_run(ME, "s", "r1")),
    "ingest.append_events": (
        opened,
        lambda gate: gate.manager.append_events(
            ME, "s", [{"type": "custom", "name": "x", "value": 1}]
        ),
    ),
    "lifecycle.archive.archive": (opened, lambda gate: gate.manager.archive(ME, "s")),
    "lifecycle.archive.restore": (archived, lambda gate: gate.manager.restore(ME, "s")),
    "lifecycle.fork._notify_parent": (
        spoken,
        lambda gate: gate.manager.fork(ME, "s", Fork(new_id="child")),
    ),
    "lifecycle.summaries.delete_summary": (
        summed_up,
        lambda gate: gate.manager.delete_summary(ME, "s"),
    ),
    "lifecycle.summaries.save_summary": (
        spoken,
        lambda gate: gate.manager.save_summary(ME, "s", "short"),
    ),
    "metadata.add_messages": (
        opened,
        lambda gate: gate.manager.add_messages(ME, "s", [NewMessage("user", "hi")]),
    ),
    "metadata.close": (opened, lambda gate: gate.manager.close_session(ME, "s")),
    "metadata.create": (
        absent,
        lambda gate: gate.manager.create_session(ME, NewSession(id="s")),
    ),
    "metadata.get_or_create": (
        absent,
        lambda gate: gate.manager.get_or_create_session(ME, NewSession(id="s")),
    ),
    "metadata.reopen": (closed, lambda gate: gate.manager.reopen_session(ME, "s")),
    "metadata.update": (opened, lambda gate: gate.manager.update_session(ME, "s", {"title": "t"})),
    "runs.chat._ChatCommand": (opened, lambda gate: gate.chat(run_id="r")),
    "runs.inputs._Command": (
        asked,
        lambda gate: gate.manager.answer_inputs(ME, "s", Inputs({"q1": "yes"})),
    ),
    "runs.titling.Titles": (spoken, lambda gate: gate.manager._titles._write("s", "A title")),
    "runs.external.ExternalRuns": (opened, lambda gate: gate.manager.open_run(ME, "s", "x")),
    "sharing._end": (shared, revoke),
    "sharing.share": (opened, lambda gate: gate.manager.share(ME, "s", NewShare())),
    "transaction.Transactions": (
        opened,
        lambda gate: gate.manager.cancel_session(ME, "s", KEY),
    ),
}
"""For each function or class that passes a `decide` to `Transactions.run`: what comes before, and
the command."""


def test_every_command_is_known():
    root = Path(transaction.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for top in ast.parse(path.read_text()).body:
            if not isinstance(top, ast.AsyncFunctionDef | ast.ClassDef | ast.FunctionDef):
                continue
            for node in ast.walk(top):
                is_decide = (
                    isinstance(node, ast.FunctionDef)
                    and node.name == "decide"
                    and node.returns is not None
                    and ast.unparse(node.returns).partition("[")[0] == "Decision"
                )
                is_lambda = (
                    isinstance(node, ast.Lambda)
                    and isinstance(node.body, ast.Call)
                    and isinstance(node.body.func, ast.Name)
                    and node.body.func.id == "Decision"
                )
                if is_decide or is_lambda:
                    found.add(f"{module}.{top.name}")
    assert found == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_decision_changes_nothing(
    name: str, gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    before_it, command = COMMANDS[name]
    await before_it(gate)
    decided: list[str] = []
    as_it_is = gate.manager._transactions.run

    async def run(caller: Any, session_id: str, decide: Decide, *more: Any, **named: Any) -> Any:
        def twice(writer: SessionWriter) -> Decision:
            before = shown(writer)
            first, second = decide(writer), decide(writer)
            assert shown(writer) == before
            assert [draft.type for draft in first.drafts] == [draft.type for draft in second.drafts]
            decided.append(f"{decide.__module__}.{decide.__qualname__}")
            return first

        return await as_it_is(caller, session_id, twice, *more, **named)

    monkeypatch.setattr(gate.manager._transactions, "run", run)
    await command(gate)
    assert [each.startswith(f"{PACKAGE}.{name}.") for each in decided] == [True]


async def test_each_look_up_asks_once_who_may_do_what(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    def check(*given: Any) -> None:
        asked.append(given[1].id)
        check_access(*given)

    monkeypatch.setattr(registry_module, "check_access", check)
    await gate.manager.create_session(ME, NewSession(id="s"))
    assert asked == [], "there was nobody to be asked about"
    for _ in range(2):  # in memory, and then loaded
        async with gate.manager._registry.use(ME, "s"):
            assert asked == ["s"]
        asked.clear()
        gate.clock.advance(gate.settings.idle_timeout_seconds)
        gate.manager._registry.evict_idle()


async def test_a_fork_looks_each_session_up_once(gate: Gateway, monkeypatch: pytest.MonkeyPatch):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.add_messages(ME, "s", [NewMessage("user", "hi")])
    looked_up: list[tuple[str, str]] = []
    manager = gate.manager
    find, head = manager._registry._find, manager._registry.head

    async def finding(caller: Any, session_id: str, *more: Any) -> Any:
        looked_up.append(("find", session_id))
        return await find(caller, session_id, *more)

    async def heading(caller: Any, session_id: str, *more: Any) -> Any:
        looked_up.append(("head", session_id))
        return await head(caller, session_id, *more)

    monkeypatch.setattr(manager._registry, "_find", finding)
    monkeypatch.setattr(manager._registry, "head", heading)
    await manager.fork(ME, "s", Fork(new_id="child"))
    # The child is made, of what its parent is; and an event tells the parent.
    assert looked_up == [("find", "child"), ("head", "s"), ("find", "s")]


async def test_a_new_chat_and_its_stream_search_no_log(gate: Gateway):
    """A log that does not exist has nothing to be found, and the head knows a run under way."""
    gate.store.hold("find")
    with anyio.fail_after(DEADLINE_SECONDS):
        turn = await gate.chat(run_id="r", key="k")
        reader = await gate.reader(
            after=turn["position"], until_complete=True, run_id=turn["run_id"]
        )
    async with reader:
        gate.store.let_go("find")
        gate.agent.do("r", Complete())
        assert (await reader.take_all())[-1].type == "complete"


async def test_a_reserved_place_is_the_streams_own_and_is_free_again_without_it():
    async with gateway(max_connections=1) as gate:
        await gate.chat(run_id="a")
        manager, hub = gate.manager, gate.manager._hub
        with manager.reserve_stream(ME) as place:
            with pytest.raises(Unavailable):
                await gate.connect()
            connection = await manager.connect(ME, "s", StreamRequest(), NATIVE, place)
        assert connection is not None
        assert hub.open == 1, "the stream has the place"
        connection.aclose()
        assert hub.open == 0
        with pytest.raises(LimitReached), manager.reserve_stream(ME):
            raise LimitReached("The chat was refused.")
        assert hub.open == 0
        with manager.reserve_stream(ME) as place:
            wanted = StreamRequest(until_complete=True, run_id="none")
            assert await manager.connect(ME, "s", wanted, NATIVE, place) is None
        assert hub.open == 0

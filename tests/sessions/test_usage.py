"""What runs have used, by agent and by model, adds up to what a recount of the log finds."""

from collections import defaultdict
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.events import (
    COUNT_MAX,
    Complete,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.usage_parts import OTHER, PARTS_MAX, UNKNOWN, UsageParts
from bamboo_gateway.sessions.commands import NewSession, Regenerate
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.statistics import session_statistics
from tests.support.agents import ScriptedAgent
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway

NAMES = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "total_tokens")


def recounted(log: list[dict[str, Any]]) -> dict[str, Any]:
    """Count again, from the events alone and without the fold: runs, and what was taken over."""
    total = dict.fromkeys(NAMES, 0)
    agents: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(NAMES, 0))
    models: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(NAMES, 0))
    run: dict[str, Any] = {}
    for event in log:
        if event["type"] == "run_start":
            run = event
        if "usage_total" in event:
            total = dict.fromkeys(NAMES, 0) | (event["usage_total"] or {})
            parts = event.get("usage_parts") or {}
            agents.clear()
            models.clear()
            for counts, given_ in ((agents, "by_agent"), (models, "by_model")):
                for name, usage in parts.get(given_, {}).items():
                    counts[name] |= usage
        if event["type"] == "complete" and event.get("usage"):
            model = event.get("model") or run.get("model")
            for name in NAMES:
                count = event["usage"].get(name, 0)
                total[name] += count
                agents[run["agent"]][name] += count
                if model:
                    models[model][name] += count
    for counts in (agents, models):
        rest = {name: total[name] - sum(one[name] for one in counts.values()) for name in NAMES}
        if any(rest.values()):
            counts[UNKNOWN] = {name: counts[UNKNOWN][name] + rest[name] for name in NAMES}
    return {**total, "by_agent": dict(agents), "by_model": dict(models)}


async def check(gate: Gateway, session_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {**await gate.manager.statistics(ME, session_id)}
    expected = recounted(await gate.log(session_id))
    assert {name: found[name] for name in expected} == expected
    for split in ("by_agent", "by_model"):
        for name in NAMES:
            assert sum(part[name] for part in found[split].values()) == found[name]
    return found


async def answered(gate: Gateway, session_id: str, number: int, model: str | None) -> None:
    agent = ("default", "second")[number % 2]
    run_id = f"r{number}"
    await gate.chat(session_id, run_id=run_id, agent=agent)
    script = gate.agent if agent == "default" else gate.manager._agents["second"]
    assert isinstance(script, ScriptedAgent)
    usage = Usage(number, 2 * number, 3 * number, number // 2, number // 3)
    script.do(run_id, Token("x"), Complete(usage if number % 5 else None, model=model))
    await gate.ended(run_id, session_id)


async def answered_again(gate: Gateway, session_id: str, number: int, *, edit: bool) -> None:
    """Begin a branch: another answer to the last turn, or another first message."""
    found = (await gate.manager.messages(ME, session_id)).messages
    messages = [decode(message) for message in found]
    asked = next((one["id"] for one in messages if one["role"] == "user"), None)
    if asked is None:
        return
    run_id = f"r{number}"
    if edit:
        await gate.chat(session_id, "else", run_id=run_id, edit_message_id=asked)
    else:
        wanted = Regenerate(run_id=run_id, agent="default")
        await gate.manager.regenerate(ME, session_id, wanted)
    usage = Usage(number, 2 * number, 3 * number, number // 2, number // 3)
    gate.agent.do(run_id, Token("y"), Complete(usage, model=f"m{number % 3}"))
    await gate.ended(run_id, session_id)


KINDS = ("run", "model run", "regenerate", "edit", "compact")
MOVES = ("fork", "append", "replace", "import", "archive")
STEPS = st.lists(
    st.sampled_from((*KINDS, *MOVES)),
    min_size=1,
    max_size=8,
)


async def play(steps: list[str]) -> None:
    async with gateway(agents={"second": ScriptedAgent()}, delta_retention_seconds=0) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        names = ["s"]
        for number, step in enumerate(steps, 1):
            name = names[-1]
            new = f"s{number}"
            if step.endswith("run"):
                await answered(gate, name, number, f"m{number % 3}" if "model" in step else None)
            elif step in ("regenerate", "edit"):
                await answered_again(gate, name, number, edit=step == "edit")
            elif step == "compact":
                gate.clock.advance(1)
                await gate.manager._compaction.compact(name)
            elif step == "fork":
                await gate.manager.fork(ME, name, Fork(new_id=new))
                names.append(new)
            elif step in ("append", "replace") and len(names) > 1:
                merge = (
                    Merge(names[0], "append", "merge")
                    if step == "append"
                    else Merge(names[0], "replace", "source")
                )
                await gate.manager.merge(ME, name, merge)
            elif step == "import":
                export = await gate.manager.export(ME, name, ExportOptions("json"))
                body = b"".join([chunk async for chunk in export.chunks])
                before = await check(gate, name)
                made = (await gate.manager.import_document(ME, body)).answer
                names.append(made["id"])
                after = await check(gate, made["id"])
                assert {part: after[part] for part in NAMES} == {p: before[p] for p in NAMES}
                assert after["by_model"] == before["by_model"]
            elif step == "archive":
                await gate.manager.archive(ME, name)
                await gate.manager.restore(ME, name)
        totals = [await check(gate, name) for name in names]
        overview: dict[str, Any] = {**await gate.manager.overall_statistics(ME)}
        for name in NAMES:
            assert overview[name] == sum(one[name] for one in totals)
            assert sum(p[name] for p in overview["by_agent"].values()) == overview[name]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_statistics_equal_a_recount_whatever_was_done(steps: list[str]) -> None:
    """Over runs, forks, merges, imports and archives."""

    async def run() -> None:
        with anyio.fail_after(DEADLINE_SECONDS):
            await play(steps)

    anyio.run(run)


async def test_messages_name_their_model_and_the_last_one_has_the_usage_of_the_run() -> None:
    """So a sum over the messages counts no run twice."""
    async with gateway() as gate:
        gate.agent.model = "given"
        await gate.chat(run_id="r")
        usage = Usage(1, 2, 3, 1, 1)
        call = [ToolStart("c", "t"), ToolComplete("c", ToolResult(True, "rows"))]
        gate.agent.do("r", Token("a"), *call, Token("b"), Complete(usage))
        await gate.ended("r")
        said = [message for message in await gate.messages() if message["role"] == "assistant"]
        assert [message["model"] for message in said] == ["given", "given"]
        assert [message.get("usage") for message in said] == [None, usage.to_json()]
        start = next(event for event in await gate.log() if event["type"] == "run_start")
        assert start["model"] == "given"


def test_a_log_of_an_earlier_version_counts_its_three_numbers_as_unknown() -> None:
    head = SessionHead("s", 1)
    time = "2026-11-20T17:25:00.123Z"
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    fold(head, {"type": "session_created", "seq": 1, "time": time})
    fold(head, {"type": "complete", "run_id": "r", "usage": usage, "seq": 2, "time": time})
    statistics = session_statistics(head)
    assert statistics["total_tokens"] == 3
    assert statistics["cached_tokens"] == 0
    assert statistics["by_agent"] == {UNKNOWN: head.usage.to_json()}
    stored = decode(encode(head.to_json()))
    stored["usage"] = usage
    assert SessionHead.of(stored).usage == Usage(1, 2, 3)


def test_names_of_models_are_bounded_and_nothing_is_lost() -> None:
    """R11: an agent's code names its model."""
    parts, total = UsageParts(), Usage()
    for number in range(PARTS_MAX + 20):
        parts = parts.plus(Usage(1, 1, 2), "default", f"m{number}")
        total += Usage(1, 1, 2)
    assert len(parts.by_model) == PARTS_MAX + 1
    assert parts.by_model[OTHER].total_tokens == 40
    by_agent, by_model = parts.shown(total)
    assert sum(part["total_tokens"] for part in by_model.values()) == total.total_tokens
    assert by_agent["default"] == total.to_json()
    assert UsageParts.of(decode(encode(parts.to_json()))) == parts


@pytest.mark.parametrize("value", [None, 3, [], {"by_agent": 3}, {"by_model": {"m": None}}])
def test_parts_of_another_shape_are_read_as_none(value: Any) -> None:
    assert UsageParts.of(value).by_agent == {}


def test_sums_stop_at_the_largest_count() -> None:
    most = Usage(*[COUNT_MAX] * 5)
    assert most + most == most
    assert most - most == Usage()

"""Two gateways on one PostgreSQL write to one session at the same time."""

import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway
from tests.support.pairs import create, say, texts

MESSAGES = 20

Pair = tuple[Gateway, Gateway]


@pytest.fixture
async def pair(stores: tuple[PostgresStore, PostgresStore]) -> AsyncIterator[Pair]:
    clock = FakeClock()
    async with gateway(stores[0], clock=clock) as a, gateway(stores[1], clock=clock) as b:
        yield a, b


def commits(gate: Gateway) -> int:
    return len([one for one in gate.store.commits if one.session_id == "s"])


async def check_whole(gate: Gateway) -> list[dict[str, Any]]:
    log = await gate.log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    return log


async def test_what_one_has_stored_is_no_conflict_for_the_other_that_looks_first(
    pair: Pair,
) -> None:
    a, b = pair
    with anyio.fail_after(DEADLINE_SECONDS):
        await create(a)
        for number in range(6):
            await say(pair[number % 2], f"{number}")
        assert await texts(a) == await texts(b) == [str(number) for number in range(6)]
    assert (commits(a), commits(b)) == (4, 3)


async def test_both_write_beside_a_run_and_nothing_is_lost_or_doubled(pair: Pair) -> None:
    a, b = pair
    words = [f"<{number}>" for number in range(200)]
    with anyio.fail_after(DEADLINE_SECONDS):
        await a.chat(run_id="r")

        async def speak() -> None:
            for word in words:
                a.agent.do("r", Token(word))
                await anyio.lowlevel.checkpoint()
            a.agent.do("r", Complete())

        async def write(gate: Gateway, name: str) -> None:
            for number in range(MESSAGES):
                await say(gate, f"{name} {number}", key=f"{name} {number}")

        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            group.start_soon(write, a, "a")
            group.start_soon(write, b, "b")
            group.start_soon(write, b, "c")
        await a.ended("r")
        log = await check_whole(b)
        said = await texts(b)
    assert "".join(event["content"] for event in log if event["type"] == "token") == "".join(words)
    assert said.count("".join(words)) == 1
    for name in "abc":
        assert [one for one in said if one.startswith(f"{name} ")] == [
            f"{name} {number}" for number in range(MESSAGES)
        ]


async def test_a_repeat_at_the_other_gateway_is_stored_once_whoever_is_faster(pair: Pair) -> None:
    a, b = pair
    with anyio.fail_after(DEADLINE_SECONDS):
        await create(a)
        async with anyio.create_task_group() as group:
            for number in range(MESSAGES):
                for gate in pair:
                    group.start_soon(say, gate, f"{number}", f"key {number}")
        assert sorted(await texts(b), key=int) == [str(number) for number in range(MESSAGES)]


async def test_lines_and_posts_of_both_make_one_message(pair: Pair) -> None:
    a, b = pair
    with anyio.fail_after(DEADLINE_SECONDS):
        await create(a)
        await a.manager.open_run(ME, "s", "x", None)

        async def lines() -> AsyncIterator[list[bytes]]:
            for number in range(60):
                event = {"type": "token", "run_id": "x", "content": f"<{number}>"}
                yield [json.dumps(event).encode()]
                await anyio.lowlevel.checkpoint()
            yield [b'{"type":"complete","run_id":"x"}']

        async def post(gate: Gateway) -> None:
            await gate.manager.append_event_lines(
                ME, "s", lines(), Idempotency("k", "POST /events", "")
            )

        async def disturb() -> None:
            for number in range(MESSAGES):
                event = {"type": "custom", "name": "n", "value": number}
                await b.manager.append_events(ME, "s", [event], None)

        async with anyio.create_task_group() as group:
            group.start_soon(post, a)
            group.start_soon(disturb)
        await post(b)
        await check_whole(b)
        assert await texts(b) == ["".join(f"<{number}>" for number in range(60))]


async def note(outcomes: list[str], call: Awaitable[object]) -> None:
    """Note the code of the error that a call gets."""
    try:
        await call
    except BambooError as error:
        outcomes.append(error.code)


async def test_a_session_that_one_deletes_and_the_other_creates_is_one_of_the_two(
    pair: Pair,
) -> None:
    a, b = pair
    with anyio.fail_after(DEADLINE_SECONDS):
        for _ in range(5):
            await create(a)
            outcomes: list[str] = []

            async with anyio.create_task_group() as group:
                group.start_soon(note, outcomes, a.manager.delete_session(ME, "s"))
                group.start_soon(note, outcomes, say(b, "beside"))
                group.start_soon(note, outcomes, b.chat("s", "hi"))
            for gate in pair:
                for run_id in gate.agent.asked:
                    gate.agent.do(run_id, Complete())
            log = await check_whole(b)
            assert (log == []) == (await b.store.inner.load("s") is None)
            if log:
                assert log[0]["type"] == "session_created"
                await b.manager.cancel_session(ME, "s")
                await a.manager.delete_session(ME, "s")
            assert set(outcomes) <= {"session-not-found", "run-active"}

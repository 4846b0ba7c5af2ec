"""Two gateways without HTTP on one PostgreSQL: what the whole commit path does under both."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import Idempotency, NewMessage
from tests.storage.postgresql.conftest import open_store
from tests.support.gateways import ME, Gateway, gateway
from tests.support.pairs import create, texts
from tests.support.postgres import execute

Two = tuple[Gateway, Gateway]


@pytest.fixture
async def two(postgres_url: str) -> AsyncIterator[Two]:
    async with _on(postgres_url) as a, _on(postgres_url) as b:
        yield a, b


@asynccontextmanager
async def _on(url: str) -> AsyncIterator[Gateway]:
    async with open_store(url) as store, gateway(store) as one:
        yield one


async def test_messages_that_meet_are_all_stored_once(two: Two) -> None:
    await create(two[0])
    wanted = [f"{name}-{number}" for name in "ab" for number in range(30)]

    async def say_all(gate: Gateway, name: str) -> None:
        for number in range(30):
            text = f"{name}-{number}"
            idem = Idempotency(text, "POST /messages", text)
            while True:
                try:
                    await gate.manager.add_messages(ME, "s", [NewMessage("user", text)], idem)
                except BambooError as error:
                    refusal = error
                else:
                    break
                assert refusal.retryable, refusal

    async with anyio.create_task_group() as group:
        group.start_soon(say_all, two[0], "a")
        group.start_soon(say_all, two[1], "b")
    said = await texts(two[0])
    assert sorted(said) == sorted(wanted)
    assert said == await texts(two[1])
    log = await two[1].log()
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))


async def test_a_run_goes_on_beside_what_the_other_gateway_writes(
    two: Two, postgres_url: str
) -> None:
    a, b = two
    await a.chat(run_id="r")
    executor = execute(postgres_url, "SELECT executor FROM sessions")
    assert a.store.replicas is not None
    assert executor == [(a.store.replicas.executor,)]
    for number in range(10):
        for part in range(3):
            a.agent.do("r", Token(f"{number}.{part} "))
        await b.manager.add_messages(ME, "s", [NewMessage("user", f"beside {number}")], None)
    a.agent.do("r", Complete())
    run = await a.ended("r")
    assert run["status"] == "completed"
    expected = "".join(f"{number}.{part} " for number in range(10) for part in range(3))
    log = await b.log()
    assert "".join(event["content"] for event in log if event["type"] == "token") == expected
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert execute(postgres_url, "SELECT run_id, executor FROM sessions") == [(None, None)]


async def test_a_session_that_the_other_gateway_has_deleted_is_created_anew_by_no_late_request(
    two: Two,
) -> None:
    a, b = two
    key = Idempotency("key", "POST /messages", "body")
    await create(a)
    await a.manager.add_messages(ME, "s", [NewMessage("user", "once")], key)
    await b.manager.delete_session(ME, "s")
    with pytest.raises(BambooError):
        await a.manager.add_messages(ME, "s", [NewMessage("user", "once")], key)
    assert await b.store.load("s") is None

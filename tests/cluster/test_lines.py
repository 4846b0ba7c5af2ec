"""Lines that are posted to one gateway while another one writes to the session, too."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import BambooError, RunEnded
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, quiet
from tests.support.pairs import Pair, create, running, say


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with running() as two:
        await create(two.a)
        yield two


def token(text: str, run_id: str = "x") -> bytes:
    return json.dumps({"type": "token", "run_id": run_id, "content": text}).encode()


def complete(run_id: str = "x") -> bytes:
    return json.dumps({"type": "complete", "run_id": run_id}).encode()


class Producer:
    """A client that posts lines as the test gives them."""

    def __init__(self, gate: Gateway, key: str | None = None) -> None:
        self.answer: Outcome | BambooError | None = None
        self._gate = gate
        self._key = key
        self._send, self._receive = anyio.create_memory_object_stream[list[bytes]](100)

    def send(self, *lines: bytes) -> None:
        self._send.send_nowait(list(lines))

    def end(self) -> None:
        self._send.close()

    async def post(self) -> None:
        idem = Idempotency(self._key, "POST /events", "") if self._key else None
        try:
            self.answer = await self._gate.manager.append_event_lines(ME, "s", self._receive, idem)
        except BambooError as error:
            self.answer = error
        finally:
            self._receive.close()
            self._send.close()


async def said(gate: Gateway) -> list[str]:
    return [event["content"] for event in await gate.log() if event["type"] == "token"]


async def is_said(gate: Gateway, *texts: str) -> bool:
    return await said(gate) == list(texts)


@pytest.mark.parametrize("key", [None, "k"])
async def test_lines_that_another_gateway_was_faster_than_are_stored_once_and_at_once(
    pair: Pair, key: str | None
) -> None:
    await pair.a.manager.open_run(ME, "s", "x", None)
    producer = Producer(pair.a, key)
    expected: list[str] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(producer.post)
            for number in range(5):
                pair.a.store.hold_appends()
                parts = [f"{number}.{part}" for part in range(4)]
                expected += parts
                producer.send(*map(token, parts[:2]))
                await quiet()
                producer.send(b"", *map(token, parts[2:]))
                await eventually(lambda: pair.a.store.held)
                await quiet()
                await say(pair.b, f"beside {number}")
                pair.a.store.release_appends()
                # While the client says nothing more.
                await eventually(lambda: not pair.a.live().is_storing)
                await quiet()
                assert await said(pair.b) == expected
            producer.send(complete())
            producer.end()
    assert isinstance(producer.answer, Outcome)
    assert producer.answer.answer["count"] == 21
    assert pair.memory.conflicts["s"] == 5
    assert (await pair.b.log())[-1]["type"] == "complete"


async def test_a_run_that_ends_elsewhere_refuses_the_lines_that_were_slower(pair: Pair) -> None:
    await pair.a.manager.open_run(ME, "s", "x", None)
    producer = Producer(pair.a)
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(producer.post)
            producer.send(token("0"))
            await eventually(lambda: is_said(pair.b, "0"))
            pair.a.store.hold_appends()
            producer.send(token("1"), token("2"))
            await eventually(lambda: pair.a.store.held)
            await pair.b.manager.cancel_run(ME, "s", "x")
            pair.a.store.release_appends()
    assert isinstance(producer.answer, RunEnded)
    assert producer.answer.extra["line"] == 2
    assert producer.answer.extra["appended"]["count"] == 1
    assert await said(pair.b) == ["0"]


async def test_a_repeat_at_another_gateway_takes_over_and_the_first_stores_no_line_twice(
    pair: Pair,
) -> None:
    await pair.a.manager.open_run(ME, "s", "x", None)
    first, second = Producer(pair.a, "k"), Producer(pair.b, "k")
    lines = [token(str(number)) for number in range(6)]
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as group:
            group.start_soon(first.post)
            first.send(*lines[:2])
            await eventually(lambda: is_said(pair.b, "0", "1"))
            pair.a.store.hold_appends()
            first.send(*lines[2:4])
            await eventually(lambda: pair.a.store.held)
            group.start_soon(second.post)
            second.send(*lines[:3])
            second.send(*lines[3:])
            second.end()
            await eventually(lambda: second.answer)
            pair.a.store.release_appends()
            first.send(*lines[4:])
            first.end()
    assert isinstance(second.answer, Outcome)
    assert isinstance(first.answer, Outcome)
    answers: list[dict[str, Any]] = [dict(first.answer.answer), dict(second.answer.answer)]
    assert [answer["count"] for answer in answers] == [6, 6]
    assert answers[0]["first"] == answers[1]["first"]
    assert await said(pair.a) == [str(number) for number in range(6)]

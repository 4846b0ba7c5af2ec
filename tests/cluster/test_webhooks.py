"""Webhooks of several processes that share one store: one sends, and all create and change them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import LimitReached, NotFound
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.sessions.webhooks import courier, leading, looking
from bamboo_gateway.sessions.webhooks.administration import NewWebhook
from tests.sessions.webhooks.hooked import ME, OK, URL, Hooked, failed, hooked
from tests.support.clocks import FakeClock
from tests.support.gateways import eventually
from tests.support.shared_memory import SharedMemory

ALICE = Caller("user:alice", "alice")


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tests' time depends on it."""
    monkeypatch.setattr(looking, "LOOK_SECONDS", 0.002)
    monkeypatch.setattr(looking, "TICK_SECONDS", 0.004)
    monkeypatch.setattr(courier, "_STORE_SECONDS", 0.002)
    monkeypatch.setattr(leading, "TURN_SECONDS", 0.005)
    monkeypatch.setattr(leading, "_WAIT_SECONDS", 0.002)


@asynccontextmanager
async def two(**settings: Any) -> AsyncIterator[tuple[SharedMemory, Hooked, Hooked]]:
    """Run two processes; the first one leads."""
    clock = FakeClock()
    memory = SharedMemory(clock)
    async with (
        hooked(await memory.store("a"), clock=clock, **settings) as a,
        hooked(await memory.store("b"), clock=clock, **settings) as b,
    ):
        yield memory, a, b


async def test_the_leader_sends_what_happens_everywhere_to_webhooks_of_everywhere() -> None:
    async with two() as (_, a, b):
        of_b = await b.hook("run.ended", url=URL + "b")
        of_a = await a.hook("run.ended", url=URL + "a")
        assert {one["id"] for one in await b.manager.list_webhooks(ME)} == {of_a, of_b}
        await eventually(lambda: set(a.couriers) == {of_a, of_b})
        await a.run("s1")
        await b.run("s2")
        await eventually(lambda: len(a.sender.sent) == 4)
        assert {(one.url, one.data["session_id"]) for one in a.sender.sent} == {
            (URL + where, session) for where in "ab" for session in ("s1", "s2")
        }
        assert b.sender.sent == []
        await eventually(lambda: _deliveries(b, of_a, 2))


async def _is_told(hooks: Hooked) -> bool:
    return not await hooks.store.values("webhook-due")


async def _deliveries(hooks: Hooked, webhook_id: str, count: int) -> bool:
    page = await hooks.manager.webhook_deliveries(ME, webhook_id, None, 100)
    return len(page["deliveries"]) == count


async def test_what_the_leader_has_not_sent_the_next_one_sends() -> None:
    async with two() as (memory, a, b):
        await b.hook("run.ended")
        await eventually(lambda: a.couriers)
        a.sender.answer = lambda _: failed()
        await a.run("s1")
        await eventually(lambda: a.sender.sent)
        memory.leader = "b"
        await eventually(lambda: not a.couriers)
        b.clock.advance(3600)
        await b.run("s2")
        await eventually(lambda: {one.data["session_id"] for one in b.sender.sent} == {"s1", "s2"})
        await eventually(lambda: _is_told(b))
        sent = len(a.sender.sent)
        # And back: nothing is told again.
        told = len(b.sender.sent)
        memory.leader = "a"
        await eventually(lambda: a.couriers and not b.couriers)
        a.sender.answer = lambda _: OK
        await b.run("s3")
        await eventually(lambda: len(a.sender.sent) > sent)
        assert {one.data["session_id"] for one in a.sender.sent[sent:]} == {"s3"}
        assert len(b.sender.sent) == told


async def test_who_does_not_lead_any_more_writes_nothing() -> None:
    """A leader that was stopped goes on with its memory, which is old."""
    async with two() as (memory, a, b):
        await a.hook("run.ended")
        await eventually(lambda: a.couriers)
        arrived, may_answer = anyio.Event(), anyio.Event()

        async def slowly(_: object) -> Any:
            arrived.set()
            await may_answer.wait()
            return failed()

        a.sender.answer = slowly
        await a.run("s")
        await arrived.wait()
        memory.leader = "b"
        await eventually(lambda: b.sender.sent)
        may_answer.set()
        await eventually(lambda: not a.couriers)
        await eventually(lambda: _is_told(b))
        [(_, webhook)] = await b.store.values("webhook")
        assert b'"failing_since":null' in webhook


async def test_a_change_at_another_process_is_not_undone_by_what_the_leader_notes() -> None:
    async with two() as (_, a, b):
        webhook = await a.hook("run.ended")
        await eventually(lambda: a.couriers)
        await b.manager.rotate_webhook(ME, webhook, 60)
        await b.manager.change_webhook(ME, webhook, {"url": URL + "new"})
        a.sender.answer = lambda _: failed()
        # Its memory may be older than the change: the failure is noted on what the store has.
        await a.run("s")
        await eventually(lambda: a.sender.sent)

        async def is_failing() -> bool:
            return (await b.manager.webhook(ME, webhook))["failing_since"] is not None

        await eventually(is_failing)
        now = await b.manager.webhook(ME, webhook)
        assert (now["url"], now["secrets"]) == (URL + "new", 2)
        await eventually(lambda: a.couriers[webhook].webhook.url == URL + "new")
        await b.manager.change_webhook(ME, webhook, {"enabled": False})
        await eventually(lambda: not a.couriers[webhook].webhook.enabled)


async def test_a_webhook_that_is_deleted_elsewhere_is_told_nothing_and_leaves_nothing() -> None:
    async with two() as (_, a, b):
        gone, kept = await a.hook("run.ended"), await a.hook("run.ended", url=URL + "kept")
        a.sender.answer = lambda one: failed() if one.url == URL else OK
        await a.run("s")
        await eventually(lambda: len(a.sender.sent) >= 2)
        await b.manager.delete_webhook(ME, gone)
        with pytest.raises(NotFound):
            await b.manager.webhook(ME, gone)
        await eventually(lambda: set(a.couriers) == {kept})
        with pytest.raises(NotFound):
            await a.manager.delete_webhook(ME, gone)
        for kind in ("webhook-due", "webhook-delivery"):
            left = [key for key, _ in await b.store.values(kind)]
            assert not [key for key in left if key.startswith(gone)]


async def test_creations_at_two_processes_at_once_keep_the_limit_and_the_key() -> None:
    async with two(max_webhooks=3) as (_, a, b):
        made: list[str] = []
        refused = 0

        async def create(hooks: Hooked, key: str) -> None:
            nonlocal refused
            try:
                outcome = await hooks.manager.create_webhook(
                    ME, NewWebhook(URL, ("run.ended",)), Idempotency(key, "POST /webhooks", "x")
                )
            except LimitReached:
                refused += 1
            else:
                made.append(outcome.answer["id"])

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                for hooks in (a, b):
                    tasks.start_soon(create, hooks, f"key-{number}")
        assert len(set(made)) == 3
        assert (len(made), refused) == (6, 2)
        assert len(await a.store.values("webhook")) == 3


async def test_what_happened_before_a_deletion_at_another_process_is_told() -> None:
    async with two() as (_, a, b):
        await a.hook("run.ended", "session.deleted")
        await eventually(lambda: a.couriers)
        for number in range(5):
            await b.run(f"s{number}")
            await b.manager.delete_session(ME, f"s{number}")
        expected = {(kind, f"s{n}") for kind in ("run.ended", "session.deleted") for n in range(5)}
        await eventually(
            lambda: {(one.type, one.data["session_id"]) for one in a.sender.sent} == expected
        )


async def test_a_user_is_erased_at_another_process_than_the_one_that_sends() -> None:
    async with two() as (_, a, b):
        operators, theirs = await a.hook(url=URL + "all"), await b.hook(caller=ALICE)
        await eventually(lambda: set(a.couriers) == {operators, theirs})
        a.sender.answer = lambda one: failed() if one.data["session_id"] == "s" else OK
        await a.run("s", "alice")
        await eventually(lambda: a.sender.sent)
        receipt = await b.manager.erase_user("alice")
        assert receipt["webhooks"] == 1
        assert receipt["complete"]
        a.sender.answer = lambda _: OK
        a.sender.sent.clear()
        a.clock.advance(3600)
        for one in a.couriers.values():
            one._poke.set()
        await eventually(lambda: a.sender.sent)
        assert {one.type for one in a.sender.sent} == {"session.deleted"}
        assert await b.store.values("webhook-ask") == []
        assert set(a.couriers) == {operators}


async def test_a_test_at_another_process_is_sent_there_and_listed_everywhere() -> None:
    async with two() as (_, a, b):
        webhook = await a.hook("run.ended")
        await a.run("s1")
        await eventually(lambda: _deliveries(a, webhook, 1))
        await b.manager.test_webhook(ME, webhook)
        assert len(b.sender.sent) == 1

        async def is_known() -> bool:
            return not await a.store.values("webhook-ask")

        await eventually(is_known)
        await a.run("s2")
        await eventually(lambda: _deliveries(b, webhook, 3))

"""A repeat with a key does nothing twice (docs/reference/chat-and-runs.md)."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import (
    BambooError,
    IdempotencyKeyReused,
    Malformed,
    NotFound,
    StorageFailed,
    TooLarge,
)
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession, Outcome
from tests.support.gateways import (
    DEADLINE_SECONDS,
    ME,
    Gateway,
    crash,
    eventually,
    gateway,
    quiet,
)


def key(name: str = "k", body: str = "b", route: str = "POST /messages") -> Idempotency:
    return Idempotency(name, route, body)


async def add(gate: Gateway, idem: Idempotency | None, text: str = "x") -> Outcome:
    return await gate.manager.add_messages(ME, "s", [NewMessage("user", text)], idem)


async def test_a_repeat_gets_the_first_answer_and_does_nothing(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    first = await add(gate, key())
    again = await add(gate, key())
    assert (first.replayed, again.replayed) == (False, True)
    assert again.answer == first.answer
    assert len(await gate.messages()) == 1


async def test_a_chat_repeated_with_its_key_runs_once(gate: Gateway):
    """A known failure elsewhere: a retried POST runs the tools again."""
    answers = [await gate.chat(None, key="k") for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert (await gate.store.usage()).sessions == 1
    await quiet()
    assert len(gate.agent.asked) == 1


async def test_another_body_is_refused(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await add(gate, key())
    with pytest.raises(IdempotencyKeyReused):
        await add(gate, key(body="other"))
    assert len(await gate.messages()) == 1


async def test_a_key_belongs_to_its_route_and_session(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.create_session(ME, NewSession(id="t"))
    await add(gate, key())
    await gate.manager.close_session(ME, "s", key(route="POST /close"))
    outcome = await gate.manager.add_messages(ME, "t", [NewMessage("user", "x")], key())
    assert not outcome.replayed


async def test_a_repeat_waits_for_the_first_that_is_at_work(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    outcomes: list[Outcome] = []

    async def one() -> None:
        outcomes.append(await add(gate, key()))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one)
            await eventually(lambda: gate.store.held)
            await quiet()
            assert not outcomes
            gate.store.release_appends()
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True, True, True, True]
    assert len({str(outcome.answer) for outcome in outcomes}) == 1
    assert len(await gate.messages()) == 1


async def test_a_repeat_that_waits_for_one_that_fails_does_the_work_once(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    outcomes: list[Any] = []

    async def one() -> None:
        try:
            outcomes.append(await add(gate, key()))
        except BambooError as error:
            outcomes.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(one)
            await eventually(lambda: gate.store.held)
            await quiet()
            gate.store.release_appends(StorageFailed("no"))
    assert sum(isinstance(outcome, StorageFailed) for outcome in outcomes) == 1
    assert sum(isinstance(o, Outcome) and not o.replayed for o in outcomes) == 1
    assert len(await gate.messages()) == 1


async def test_repeats_that_both_look_into_the_log_do_the_work_once(gate: Gateway):
    """No answer of the store is taken that is older than what was decided since."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.live().keys.forget()
    gate.store.hold("find")
    outcomes: list[Outcome] = []

    async def one() -> None:
        outcomes.append(await add(gate, key()))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(one)
            await eventually(lambda: gate.store.waiting.get("find"))
            await quiet()
            gate.store.let_go("find")
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True, True]
    assert len(await gate.messages()) == 1


async def test_a_refused_request_does_not_forget_one_that_is_in_flight():
    async with gateway(max_event_bytes=2048) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        gate.store.hold_appends()
        outcomes: list[Outcome] = []

        async def one() -> None:
            outcomes.append(await add(gate, key()))

        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one)
                await eventually(lambda: gate.store.held)
                with pytest.raises(TooLarge):
                    await add(gate, key("large"), "x" * 3000)
                tasks.start_soon(one)
                await quiet()
                gate.store.release_appends()
        assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
        assert len(await gate.messages()) == 1


async def test_a_failed_request_is_not_replayed(gate: Gateway):
    """A failure is not replayed: the repeat does the work."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.fail_append(1)
    with pytest.raises(StorageFailed):
        await add(gate, key())
    outcome = await add(gate, key())
    assert not outcome.replayed
    assert len(await gate.messages()) == 1


async def test_a_keyed_request_takes_effect_though_its_client_left(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add, gate, key())
        await eventually(lambda: gate.store.held)
        tasks.cancel_scope.cancel()
    gate.store.release_appends()
    assert (await add(gate, key())).replayed
    assert len(await gate.messages()) == 1


async def test_keys_survive_eviction_and_restart(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    first = await add(gate, key())
    await quiet()
    gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
    gate.manager._registry.evict_idle()
    assert gate.manager._registry.get("s") is None
    assert (await add(gate, key())).answer == first.answer
    left = await crash(gate)
    async with gateway(left, clock=gate.clock) as again:
        repeat = await add(again, key())
        assert repeat.replayed
        assert repeat.answer == first.answer
        with pytest.raises(IdempotencyKeyReused):
            await add(again, key(body="other"))
        assert len(await again.messages()) == 1
    gate.store.release_appends()


@pytest.mark.parametrize("stored", [True, False])
async def test_a_crash_between_work_and_answer_does_the_work_once(stored: bool, gate: Gateway):
    """The answer is kept in the commit that did the work, so they are there together or not."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    (gate.store.hold_acks if stored else gate.store.hold_appends)()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add, gate, key())
        await eventually(lambda: gate.store.held)
        left = await crash(gate) if not stored else gate.store.inner
        tasks.cancel_scope.cancel()
    async with gateway(left, clock=gate.clock) as again:
        assert (await add(again, key())).replayed == stored
        assert len(await again.messages()) == 1
    gate.store.release_acks()


async def test_an_idempotency_key_is_known_for_24_hours(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await add(gate, key())
    gate.clock.advance(24 * 3600 - 1)
    assert (await add(gate, key())).replayed
    gate.clock.advance(2)
    assert not (await add(gate, key())).replayed
    assert len(await gate.messages()) == 2


async def test_the_newest_keys_are_kept():
    async with gateway(idempotency_keys_max=3) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        for number in range(5):
            await add(gate, key(str(number)))
        gate.live().keys.forget()
        for number, replayed in [(4, True), (3, True), (2, True), (0, False)]:
            assert (await add(gate, key(str(number)))).replayed == replayed


async def test_the_newest_answers_are_kept_up_to_their_bytes_in_memory_and_from_the_log():
    """An answer to `POST /messages` is as large as what was sent: a count bounds nothing."""
    async with gateway(idempotency_bytes_max=5000) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))

        async def add_one(name: str, text: str) -> bool:
            message = NewMessage("user", text)
            return (await gate.manager.add_messages(ME, "s", [message], key(name))).replayed

        def kept() -> int:
            held = gate.live().keys._kept
            assert held is not None
            assert gate.live().keys._bytes == sum(one.size for one in held.values())
            return len(held)

        for number in range(40):
            assert not await add_one(f"small-{number}", "x" * 1000)
        assert kept() == 3
        for forgotten in (False, True):
            if forgotten:
                gate.live().keys.forget()
            for number in (39, 38, 37):
                assert await add_one(f"small-{number}", "x" * 1000)
            assert kept() == 3
        # One that is larger than all may be: the last request can be repeated all the same.
        assert not await add_one("large", "x" * 20_000)
        assert kept() == 1
        gate.live().keys.forget()
        assert await add_one("large", "x" * 20_000)
        assert kept() == 1
        assert not await add_one("small-39", "x" * 1000)
        assert kept() == 1


async def test_an_answer_whose_commit_failed_takes_no_bytes(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await add(gate, key("first"))
    before = gate.live().keys._bytes
    gate.store.fail_append()
    with pytest.raises(StorageFailed):
        await add(gate, key("second"))
    await quiet()
    await gate.live().ready()
    await add(gate, key("first"))
    assert gate.live().keys._bytes == before


async def test_one_long_stream_of_lines_does_not_push_other_keys_out():
    """Each of its commits moves its one key on; the others are as young as they were."""
    async with gateway(idempotency_keys_max=5) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await add(gate, key("other"))
        await post(gate, *[[line(number)] for number in range(40)], name="lines")
        await quiet()
        gate.clock.advance(gate.settings.idle_timeout_seconds + 1)
        gate.manager._registry.evict_idle()
        assert (await add(gate, key("other"))).replayed


async def test_a_creation_repeated_with_its_key_is_one_session(gate: Gateway):
    idem = key(route="POST /sessions")
    one = await gate.manager.create_session(ME, NewSession(), idem)
    two = await gate.manager.create_session(ME, NewSession(), idem)
    assert one.answer == two.answer
    assert (await gate.store.usage()).sessions == 1


async def test_the_answer_of_a_request_that_changed_nothing_is_kept_too(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.close_session(ME, "s")
    idem = key(route="POST /close")
    assert not (await gate.manager.close_session(ME, "s", idem)).replayed
    assert (await gate.manager.close_session(ME, "s", idem)).replayed
    with pytest.raises(IdempotencyKeyReused):
        await gate.manager.close_session(ME, "s", key(route="POST /close", body="other"))


# -- NDJSON ---------------------------------------------------------------------------------------


def line(value: Any) -> bytes:
    return b'{"type":"custom","name":"x","value":%d}' % value


async def batches(*given: list[bytes] | Exception) -> AsyncIterator[list[bytes]]:
    for batch in given:
        if isinstance(batch, Exception):
            raise batch
        yield batch


async def post(gate: Gateway, *given: list[bytes] | Exception, name: str | None = "k") -> Outcome:
    idem = key(name, route="POST /events", body="") if name else None
    return await gate.manager.append_event_lines(ME, "s", batches(*given), idem)


async def values(gate: Gateway) -> list[Any]:
    return [event["value"] for event in await gate.log() if event["type"] == "custom"]


@pytest.fixture
async def lined(gate: Gateway) -> Gateway:
    await gate.manager.create_session(ME, NewSession(id="s"))
    return gate


async def test_lines_are_appended_as_they_arrive(lined: Gateway):
    outcome = await post(lined, [line(1), line(2)], [line(3)], name=None)
    assert outcome.answer["count"] == 3
    assert outcome.answer["first"].endswith("-2")
    assert outcome.answer["last"].endswith("-4")
    assert await values(lined) == [1, 2, 3]


async def test_a_bad_line_is_answered_with_its_number_and_what_was_appended(lined: Gateway):
    with pytest.raises(Malformed) as caught:
        await post(lined, [line(1)], [line(2), b"", b"{bad", line(3)])
    assert caught.value.extra["line"] == 4
    assert caught.value.extra["appended"]["count"] == 2
    assert await values(lined) == [1, 2]


@pytest.mark.parametrize("cut", range(6))
async def test_a_repeat_appends_only_what_is_missing(cut: int, lined: Gateway):
    everything = [line(number) for number in range(5)]
    if cut:
        with pytest.raises(ConnectionError):
            await post(lined, *[[each] for each in everything[:cut]], ConnectionError())
    outcome = await post(lined, everything)
    assert await values(lined) == list(range(5))
    assert outcome.answer["count"] == 5
    assert outcome.answer["first"].endswith("-2")
    assert outcome.answer["last"].endswith("-6")
    assert outcome.replayed == (cut == 5)


async def test_a_repeat_after_a_restart_appends_only_what_is_missing(lined: Gateway):
    with pytest.raises(ConnectionError):
        await post(lined, [line(0), line(1)], ConnectionError())
    left = await crash(lined)
    async with gateway(left, clock=lined.clock) as again:
        await post(again, [line(number) for number in range(4)])
        assert await values(again) == [0, 1, 2, 3]
    lined.store.release_appends()


@pytest.mark.parametrize("nth", range(1, 5))
async def test_a_repeat_after_a_failed_commit_appends_each_line_once(nth: int, lined: Gateway):
    lined.store.fail_append(nth)
    given = [[line(number)] for number in range(4)]
    idem = key("k", route="POST /events", body="")

    async def one_by_one() -> AsyncIterator[list[bytes]]:
        for batch in given:
            yield batch
            await eventually(lambda: not lined.live().is_storing)

    with pytest.raises(StorageFailed):
        await lined.manager.append_event_lines(ME, "s", one_by_one(), idem)
    await post(lined, *given)
    assert await values(lined) == [0, 1, 2, 3]


async def test_a_repeat_appends_the_line_that_was_corrected(lined: Gateway):
    with pytest.raises(Malformed):
        await post(lined, [line(0), b"{bad"])
    await post(lined, [line(0), line(1)])
    assert await values(lined) == [0, 1]


@pytest.mark.parametrize("other", [[9, 1, 2], [0, 1, 9], [0, 9], [9], []])
async def test_other_lines_under_the_same_key_are_refused(other: list[int], lined: Gateway):
    await post(lined, [line(0), line(1), line(2)])
    with pytest.raises(IdempotencyKeyReused):
        await post(lined, [line(number) for number in other])
    assert await values(lined) == [0, 1, 2]


async def test_a_repeat_waits_for_the_stream_that_is_at_work(lined: Gateway):
    released = anyio.Event()

    async def slow() -> AsyncIterator[list[bytes]]:
        yield [line(0)]
        await released.wait()
        yield [line(1)]

    idem = key("k", route="POST /events", body="")
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lined.manager.append_event_lines, ME, "s", slow(), idem)
            await quiet()
            tasks.start_soon(post, lined, [line(0), line(1)])
            await quiet()
            assert await values(lined) == [0]
            released.set()
    assert await values(lined) == [0, 1]
    await quiet()
    assert lined.leftovers() == []


async def test_a_stream_of_lines_never_writes_into_a_successor(lined: Gateway):
    """R3: the session was deleted and made again while lines were arriving."""
    gone = anyio.Event()

    async def slow() -> AsyncIterator[list[bytes]]:
        yield [line(0)]
        await gone.wait()
        yield [line(1)]

    outcomes: list[Any] = []

    async def run() -> None:
        try:
            outcomes.append(await lined.manager.append_event_lines(ME, "s", slow()))
        except NotFound as error:
            outcomes.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await quiet()
            await lined.manager.delete_session(ME, "s")
            await lined.manager.create_session(ME, NewSession(id="s"))
            gone.set()
    assert isinstance(outcomes[0], NotFound)
    assert await values(lined) == []


async def test_a_line_that_grows_when_it_is_written_is_answered_with_its_number():
    async with gateway(max_event_bytes=2048) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        growing = b'{"type":"custom","name":"x","value":[%s]}' % b",".join([b"1e15"] * 300)
        with pytest.raises(BambooError) as caught:
            await post(gate, [line(0), growing])
        assert caught.value.extra["line"] == 2
        assert await values(gate) == [0]


async def test_a_chat_is_replayed_whatever_has_happened_since(gate: Gateway):
    answer = await gate.chat(run_id="r", key="k")
    gate.agent.do("r", Complete())
    await gate.ended("r")
    await gate.manager.close_session(ME, "s")
    assert await gate.chat(run_id="r", key="k") == answer


async def test_a_chat_whose_key_was_forgotten_begins_another_session(gate: Gateway):
    """Not one more message in the session that the key made a day ago."""
    gate.agent.do("r1", Complete())
    first = await gate.chat(None, key="k", run_id="r1")
    await gate.ended("r1", first["session_id"])
    log = await gate.log(first["session_id"])
    gate.clock.advance(24 * 3600 + 1)
    again = await gate.chat(None, key="k", run_id="r1")
    assert again["session_id"] != first["session_id"]
    assert await gate.chat(None, key="k", run_id="r1") == again
    assert await gate.log(first["session_id"]) == log
    await gate.manager.cancel_session(ME, again["session_id"])
    await gate.manager.close_session(ME, again["session_id"])
    gate.clock.advance(24 * 3600 + 1)
    third = await gate.chat(None, key="k", run_id="r1")
    assert (await gate.store.usage()).sessions == 3
    assert third["session_id"] not in {first["session_id"], again["session_id"]}


async def test_a_session_made_with_a_key_that_was_forgotten_is_another_one(gate: Gateway):
    creating = key(route="POST /sessions")
    first = (await gate.manager.create_session(ME, NewSession(), creating)).answer
    gate.clock.advance(24 * 3600 + 1)
    again = (await gate.manager.create_session(ME, NewSession(), creating)).answer
    assert again["id"] != first["id"]


async def test_a_repeated_cancel_spares_the_run_that_came_since(gate: Gateway):
    await gate.chat(run_id="r1")
    idem = key(route="POST /cancel")
    first = await gate.manager.cancel_session(ME, "s", idem)
    assert [run["run_id"] for run in first.answer["runs"]] == ["r1"]
    await gate.chat(run_id="r2")
    again = await gate.manager.cancel_session(ME, "s", idem)
    assert (again.replayed, again.answer) == (True, first.answer)
    assert (await gate.manager.run(ME, "s", "r2"))["status"] == "running"
    one = key("k2", route="POST /runs/r2/cancel")
    ended = await gate.manager.cancel_run(ME, "s", "r2", one)
    assert ended.answer["status"] == "cancelled"
    assert (await gate.manager.cancel_run(ME, "s", "r2", one)).replayed


async def test_a_cancel_whose_answer_cannot_be_kept_is_answered(gate: Gateway):
    await gate.chat(run_id="r1")
    first = await gate.manager.cancel_session(ME, "s")
    gate.store.fail_append()
    again = await gate.manager.cancel_session(ME, "s", key(route="POST /cancel"))
    assert (again.replayed, again.answer["runs"]) == (False, [])
    assert first.answer["runs"]

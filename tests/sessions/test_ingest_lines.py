"""Streamed lines are decided while earlier ones are being stored; the answer waits for all (R1)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import (
    BambooError,
    InvalidEvent,
    Malformed,
    RunEnded,
    StorageFailed,
    TooLarge,
)
from bamboo_gateway.domain.events import TERMINAL_TYPES, parse_agent_event
from bamboo_gateway.domain.limits import RUN_AHEAD_BYTES_MAX
from bamboo_gateway.sessions.commands import Idempotency, NewSession, Outcome
from bamboo_gateway.sessions.ingest_lines import _AHEAD_LINES_MAX
from bamboo_gateway.sessions.runs.external import outside_event
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, eventually, gateway, quiet


def custom(value: Any) -> bytes:
    return json.dumps({"type": "custom", "name": "x", "value": value}).encode()


def token(text: str) -> bytes:
    return json.dumps({"type": "token", "run_id": "x", "content": text}).encode()


async def post(gate: Gateway, lines: AsyncIterator[list[bytes]], key: str | None = None) -> Outcome:
    idem = Idempotency(key, "POST /events", "") if key else None
    return await gate.manager.append_event_lines(ME, "s", lines, idem)


async def at_once(*lines: bytes) -> AsyncIterator[list[bytes]]:
    """A client that never waits."""
    for line in lines:
        yield [line]


async def one_by_one(gate: Gateway, *lines: bytes) -> AsyncIterator[list[bytes]]:
    """A client that waits until each line is stored."""
    for line in lines:
        yield [line]
        await eventually(lambda: not gate.live().is_storing)


async def then_silent(*lines: bytes) -> AsyncIterator[list[bytes]]:
    """A client that stays and sends nothing more."""
    for line in lines:
        yield [line]
    await anyio.sleep_forever()


async def values(gate: Gateway) -> list[Any]:
    return [event["value"] for event in await gate.log() if event["type"] == "custom"]


async def told(answer: list[Any], posting: Any) -> None:
    """Note what a request is answered."""
    try:
        answer.append(await posting)
    except BambooError as error:
        answer.append(error)


@pytest.fixture
async def lined(gate: Gateway) -> Gateway:
    await gate.manager.create_session(ME, NewSession(id="s"))
    return gate


async def test_the_next_lines_are_decided_while_a_commit_is_in_flight(lined: Gateway) -> None:
    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, answer, post(lined, at_once(*map(custom, range(5)))))
            await eventually(lambda: lined.live().head.seq == 6)
            await quiet()
            # All are decided, one commit is at the store, and nobody is told or shown anything.
            assert (lined.store.held, answer, lined.live().durable_seq) == (1, [], 1)
            lined.store.release_appends()
    assert answer[0].answer["count"] == 5
    assert answer[0].answer["last"].endswith("-6")
    assert await values(lined) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_bad_line_is_answered_once_the_lines_before_it_are_stored(
    fails: bool, lined: Gateway
) -> None:
    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            lines = at_once(custom(0), custom(1), b"", b"{bad", custom(2))
            tasks.start_soon(told, answer, post(lined, lines))
            await eventually(lambda: lined.live().head.seq == 3)
            await quiet()
            assert not answer
            lined.store.release_appends(StorageFailed("no") if fails else None)
    [error] = answer
    assert isinstance(error, StorageFailed if fails else Malformed)
    count = 0 if fails else 2
    assert (error.extra["line"], error.extra["appended"]["count"]) == (1 if fails else 4, count)
    assert await values(lined) == [0, 1][:count]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("waits", [False, True])
async def test_whichever_commit_fails_the_answer_says_how_far_the_lines_are_stored(
    waits: bool, key: str | None
) -> None:
    """The nth commit fails, for n = 1, 2, 3 … until all come through; the repeat sends the rest."""
    lines = [custom(number) for number in range(6)]
    nth, failed = 0, True
    while failed:
        nth += 1
        async with gateway() as gate:
            await gate.manager.create_session(ME, NewSession(id="s"))
            gate.store.fail_append(nth)
            answer: list[Any] = []
            await told(
                answer, post(gate, one_by_one(gate, *lines) if waits else at_once(*lines), key)
            )
            gate.store.heal()
            stored = await values(gate)
            failed = isinstance(answer[0], StorageFailed)
            if failed:
                appended = answer[0].extra["appended"]
                assert answer[0].extra["line"] == len(stored) + 1
                assert appended["count"] == len(stored)
                last = f"-{len(stored) + 1}" if stored else None
                assert appended["last"] is None if last is None else appended["last"].endswith(last)
            else:
                assert len(stored) == 6
            assert stored == [*range(len(stored))]
            rest = lines if key else lines[len(stored) :]
            again = await post(gate, at_once(*rest), key)
            assert again.answer["count"] == len(rest)
            assert await values(gate) == [0, 1, 2, 3, 4, 5]
            await quiet()
            assert gate.leftovers() == []
    assert nth > (6 if waits else 2)


async def test_a_failed_commit_is_told_to_a_client_that_sends_nothing_more(lined: Gateway) -> None:
    lined.store.fail_append(2)
    with anyio.fail_after(DEADLINE_SECONDS), pytest.raises(StorageFailed) as caught:
        await post(lined, then_silent(custom(0), custom(1), custom(2)))
    assert (caught.value.extra["line"], caught.value.extra["appended"]["count"]) == (2, 1)
    assert await values(lined) == [0]


async def test_only_the_lines_own_request_is_told_where_they_end(lined: Gateway) -> None:
    """Several requests are in one commit, and get one error."""
    lined.store.hold_appends()
    answer: list[Any] = []
    other: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, answer, post(lined, at_once(custom(0), custom(1))))
            await eventually(lambda: lined.live().head.seq == 3)
            one = [{"type": "custom", "name": "x", "value": 2}]
            tasks.start_soon(told, other, lined.manager.append_events(ME, "s", one))
            await eventually(lambda: lined.live().head.seq == 4)
            lined.store.release_appends(StorageFailed("no"))
    assert answer[0].extra["line"] == 1
    assert "line" not in other[0].extra


async def test_lines_that_the_writer_refuses_are_answered_once_those_before_them_are_stored(
    lined: Gateway,
) -> None:
    """R1. No line that is not too large becomes an event that is; but if it did."""
    lined.live()._max_event_bytes = 200
    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            lines = at_once(custom(0), custom("x" * 200), custom(2))
            tasks.start_soon(told, answer, post(lined, lines))
            await eventually(lambda: lined.store.held)
            await quiet()
            assert not answer
            lined.store.release_appends()
    assert isinstance(answer[0], TooLarge)
    assert (answer[0].extra["line"], answer[0].extra["appended"]["count"]) == (2, 1)
    assert await values(lined) == [0]


@pytest.mark.parametrize("size", [1, RUN_AHEAD_BYTES_MAX // 4])
async def test_lines_run_ahead_of_the_disk_by_a_bounded_number_and_size(
    size: int, lined: Gateway
) -> None:
    """R11, though the client never waits."""
    lined.store.hold_appends()
    answer: list[Any] = []
    lines = [custom("x" * size)] * (3 * _AHEAD_LINES_MAX if size == 1 else 12)
    most = _AHEAD_LINES_MAX if size == 1 else 4
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, answer, post(lined, at_once(*lines)))
            await eventually(lambda: lined.live().head.seq >= most)
            await quiet()
            assert most - 1 <= lined.live().head.seq - 1 <= most + 1
            lined.store.release_appends()
    assert answer[0].answer["count"] == len(lines)
    assert len(await values(lined)) == len(lines)


async def test_a_client_that_is_lost_with_a_commit_in_flight_sends_again_and_adds_only_the_rest(
    lined: Gateway,
) -> None:
    lines = [custom(number) for number in range(5)]
    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as first:
                first.start_soon(post, lined, then_silent(*lines[:3]), "k")
                await eventually(lambda: lined.live().head.seq == 4)
                first.cancel_scope.cancel()
            tasks.start_soon(told, answer, post(lined, at_once(*lines), "k"))
            await quiet()
            assert not answer
            lined.store.release_appends()
    assert answer[0].answer["count"] == 5
    assert await values(lined) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("stored", [False, True])
async def test_a_crash_with_commits_in_flight_loses_and_doubles_nothing(
    stored: bool, lined: Gateway
) -> None:
    lines = [custom(number) for number in range(5)]
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            (lined.store.hold_acks if stored else lined.store.hold_appends)()
            tasks.start_soon(post, lined, then_silent(*lines[:4]), "k")
            await eventually(lambda: lined.store.held and lined.live().head.seq == 5)
            left = lined.store.inner if stored else await crash(lined)
            tasks.cancel_scope.cancel()
        async with gateway(left, clock=lined.clock) as again:
            assert await values(again) == ([0] if stored else [])
            assert (await post(again, at_once(*lines), "k")).answer["count"] == 5
            assert await values(again) == [0, 1, 2, 3, 4]
    lined.store.release_acks()


async def test_a_cancel_comes_after_the_lines_in_flight_and_the_next_line_is_refused(
    lined: Gateway,
) -> None:
    await lined.manager.open_run(ME, "s", "x")
    more = anyio.Event()

    async def lines() -> AsyncIterator[list[bytes]]:
        for text in ("Hel", "lo"):
            yield [token(text)]
        await more.wait()
        yield [token("!"), token("?")]

    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(told, answer, post(lined, lines()))
            await eventually(lambda: lined.live().posting == "x")
            await quiet()
            tasks.start_soon(lined.manager.cancel_run, ME, "s", "x")
            await eventually(lambda: lined.live().head.active is None)
            more.set()
            await quiet()
            assert not answer
            lined.store.release_appends()
    assert isinstance(answer[0], RunEnded)
    assert (answer[0].extra["line"], answer[0].extra["appended"]["count"]) == (3, 2)
    [message] = await lined.messages()
    assert (message["content"], message["status"]) == ("Hello", "incomplete")
    assert [event["type"] in TERMINAL_TYPES for event in await lined.log()].count(True) == 1


async def test_a_failed_commit_takes_its_lines_out_of_the_unfinished_message(
    lined: Gateway,
) -> None:
    await lined.manager.open_run(ME, "s", "x")
    lined.store.fail_append(2)
    with pytest.raises(StorageFailed):
        await post(lined, at_once(token("a"), token("b"), token("c")))
    assert lined.live().external is None
    await post(lined, at_once(token("d"), b'{"type":"complete","run_id":"x"}'))
    [message] = await lined.messages()
    assert message["content"] == "ad"


async def test_a_second_program_goes_on_behind_lines_that_are_still_in_flight(
    lined: Gateway,
) -> None:
    await lined.manager.open_run(ME, "s", "x")
    lined.store.hold_appends()
    answer: list[Any] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as first:
                first.start_soon(post, lined, then_silent(token("a"), token("b")))
                await eventually(lambda: lined.live().head.seq == 4)
                first.cancel_scope.cancel()
            assert lined.live().posting is None
            end = b'{"type":"complete","run_id":"x"}'
            tasks.start_soon(told, answer, post(lined, at_once(token("c"), end)))
            await quiet()
            assert not answer
            lined.store.release_appends()
    assert answer[0].answer["count"] == 2
    [message] = await lined.messages()
    assert message["content"] == "abc"


# -- lines that take the short way ----------------------------------------------------------------

TEXT = st.text() | st.sampled_from(["", "\0", "é", "\u2028", "𝄞", '"\\'])
VALUE: st.SearchStrategy[Any] = (
    TEXT | st.none() | st.integers() | st.lists(TEXT, max_size=1) | st.just({})
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["token", "thinking", "tool_delta", "custom", "nonsense"]) | VALUE,
        "run_id": VALUE,
        "content": VALUE,
        "tool_call_id": VALUE,
        "message_id": VALUE,
    },
)


@given(
    FIELDS
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["token", "thinking"]), "run_id": TEXT, "content": TEXT}
    )
)
def test_a_line_is_read_as_the_parser_reads_it(value: dict[str, Any]) -> None:
    """A delta of text does not go through the parser, and nobody can tell."""

    def parsed() -> Any:
        rest = {name: part for name, part in value.items() if name != "run_id"}
        return value["run_id"], parse_agent_event(rest)

    def outcome(read: Any) -> Any:
        try:
            return read()
        except InvalidEvent as error:
            return error.detail, error.errors

    if isinstance(value.get("run_id"), str):
        assert outcome(lambda: outside_event(value)) == outcome(parsed)


@pytest.mark.parametrize("fits", [True, False])
async def test_the_short_way_has_the_same_bound(fits: bool) -> None:
    async with gateway(max_event_bytes=2048) as gate:
        await gate.manager.create_session(ME, NewSession(id="s"))
        await gate.manager.open_run(ME, "s", "x")
        size = 2048 - 640
        text = "x" * (size - 2 if fits else size - 1)
        if fits:
            assert (await post(gate, at_once(token(text)))).answer["count"] == 1
        else:
            with pytest.raises(TooLarge) as caught:
                await post(gate, at_once(token("ok"), token(text)))
            assert (caught.value.extra["line"], caught.value.code) == (2, "event-too-large")

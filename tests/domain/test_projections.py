"""The head is a pure fold: from the log, from any place in it, and live, it is the same."""

import json
from contextlib import suppress
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.errors import BambooError, InvalidId
from bamboo_gateway.domain.events import Complete, Failed, Token, ToolError, ToolStart, Usage
from bamboo_gateway.domain.ids import IdMaker, check_connection_id, check_id, derived_session_id
from bamboo_gateway.domain.positions import Position, in_epoch, parse_after, parse_position
from bamboo_gateway.domain.projections import fold
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway, quiet

VERBS = st.lists(
    st.sampled_from(
        [
            "say",
            "chat",
            "interrupt",
            "end",
            "fail",
            "tools",
            "cancel",
            "cancel all",
            "patch",
            "close",
            "reopen",
            "event",
            "external",
            "break",
            "tick",
        ]
    ),
    min_size=1,
    max_size=12,
)


async def act(gate: Gateway, verb: str, number: int) -> None:
    manager, active = gate.manager, gate.live().head.active
    run_id = active.run_id if active else None
    if verb == "say":
        await manager.add_messages(ME, "s", [NewMessage("user", "x")])
    elif verb in ("chat", "interrupt"):
        name = f"r{number}"
        await gate.chat(run_id=name, on_busy="interrupt" if verb == "interrupt" else "enqueue")
    elif verb in ("end", "fail", "tools") and run_id is not None:
        steps: dict[str, list[Any]] = {
            "end": [Token("a"), Complete(Usage(1, 2, 3))],
            "fail": [Token("a"), Failed("no")],
            "tools": [ToolStart("c", "t"), ToolError("c", "none")],
        }
        gate.agent.do(run_id, *steps[verb])
    elif verb == "cancel" and run_id is not None:
        await manager.cancel_run(ME, "s", run_id)
    elif verb == "cancel all":
        await manager.cancel_session(ME, "s")
    elif verb == "patch":
        await manager.update_session(ME, "s", {"title": str(number), "metadata": {"n": number}})
    elif verb == "close":
        await manager.close_session(ME, "s")
    elif verb == "reopen":
        await manager.reopen_session(ME, "s")
    elif verb == "event":
        await manager.append_events(ME, "s", [{"type": "custom", "name": "x"}])
    elif verb == "external":
        await manager.open_run(ME, "s", f"x{number}")
    elif verb == "break":
        gate.store.fail_append(1)
    gate.clock.advance(0.25)


def folded(epoch: int, log: list[dict[str, Any]]) -> SessionHead:
    head = SessionHead("s", epoch)
    for event in log:
        fold(head, event)
    return head


async def at_one_moment(gate: Gateway) -> tuple[SessionHead, list[dict[str, Any]]]:
    """Return the live head, which the store has too, and the log.

    What could not be stored is tried again when it pleases, so it may come while this looks.
    """
    while True:
        await quiet()
        await gate.live().settled()
        head = gate.live().head.copy()
        log, stored = await gate.log(), await gate.store.load("s")
        if gate.live().head == head:
            assert stored == head
            return head, log


async def play(verbs: list[str]) -> None:
    async with gateway() as gate:
        await gate.manager.create_session(ME, NewSession(id="s", ttl_seconds=10_000))
        for number, verb in enumerate(verbs):
            with suppress(BambooError):
                await act(gate, verb, number)
            await quiet()
        gate.store.heal()
        live, log = await at_one_moment(gate)
        assert folded(live.epoch, log) == live
        # From any place: a head that was stored and read back goes on as if nothing had happened.
        for cut in range(0, len(log), 3):
            head = folded(live.epoch, log[:cut])
            head = SessionHead.of(json.loads(codec.encode(head.to_json())))
            for event in log[cut:]:
                fold(head, event)
            assert head == live
        await gate.manager.cancel_session(ME, "s")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(verbs=VERBS)
def test_the_head_folded_from_the_log_equals_the_writers_head(verbs: list[str]):
    """R8, R10: whatever was done, and whatever failed on the way."""

    async def run() -> None:
        with anyio.fail_after(DEADLINE_SECONDS):
            await play(verbs)

    anyio.run(run)


@given(st.text(max_size=140))
def test_an_id_has_only_characters_of_its_alphabet(text: str):
    """R13: otherwise ids could build paths."""
    allowed = (
        0 < len(text) <= 128
        and text.isascii()
        and all(c.isalnum() or c in "._-" for c in text)
        and text[0].isalnum()
    )
    if allowed:
        assert check_id(text) == text
    else:
        with pytest.raises(InvalidId):
            check_id(text)


@pytest.mark.parametrize(
    "text",
    ["", "../../victim", "a/b", "a\n", "a\x00", ".hidden", "-x", "é", "a" * 129, "a b", "\u0661"],
)
def test_a_text_that_is_no_id_is_refused(text: str):
    """R13: also with a newline at the end, which `$` would let through."""
    with pytest.raises(InvalidId):
        check_id(text)


@pytest.mark.parametrize("text", ["", "a/b", "a\n", "x" * 129, "é"])
def test_a_text_that_is_no_connection_id_is_refused(text: str):
    with pytest.raises(InvalidId):
        check_connection_id(text)


@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=50))
def test_generated_ids_rise_even_when_the_clock_steps_back(times: list[int]):
    """Ids sort by time, break ties, and are never used again after a delete."""
    maker = IdMaker()
    made = [maker.make("s-", now) for now in times]
    assert made == sorted(set(made))
    for text in made:
        check_id(text)


def test_a_derived_id_is_an_id_and_depends_on_every_part():
    made = {
        derived_session_id(*parts)
        for parts in [("a", "b", "c"), ("a", "bc", ""), ("ab", "c", ""), ("", "", "")]
    }
    assert len(made) == 4
    for text in made:
        check_id(text)


@given(st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_positions_read_back_as_written(epoch: int, seq: int):
    assert parse_position(str(Position(epoch, seq))) == Position(epoch, seq)


@given(st.text("0123456789-+_ \n\u0661", max_size=12))
def test_nothing_else_is_a_position(text: str):
    """A wrong cursor must never be read as another place."""
    position = parse_position(text)
    if position is not None:
        left, right = text.split("-")
        assert (left + right).isascii()
        assert (left + right).isdigit()


@given(st.integers(0, 253402300799999))
def test_times_read_back_to_the_millisecond(ms: int):
    assert parse_ms(format_ms(ms)) == ms


def test_a_bare_seq_means_the_current_epoch_of_the_log():
    assert in_epoch(parse_after("7"), 3) == Position(3, 7)
    assert in_epoch(parse_after("2-7"), 3) == Position(2, 7)

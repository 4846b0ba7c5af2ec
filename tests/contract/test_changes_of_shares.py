"""R9: who is told of a session whose shares end, on every store (docs/reference/streams.md)."""

from collections.abc import Sequence
from contextlib import suppress

import pytest

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.changes.page import ChangeCursor, ChangeFilter
from bamboo_gateway.sessions.commands import NewSession
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.storage.base import ChangesLost, SessionStore
from tests.contract.conftest import Reopen
from tests.support.clocks import FakeClock
from tests.support.gateways import Gateway, gateway

ALICE, BOB, EVE = PEOPLE = [Caller(name, user_id=name) for name in ("alice", "bob", "eve")]
Told = list[list[tuple[str, str]]]


async def told(
    gate: Gateway, cursors: Sequence[ChangeCursor | None]
) -> tuple[Told, list[ChangeCursor]]:
    """Return what each of the people is told, and where they are then."""
    answers, nexts = [], []
    for caller, cursor in zip(PEOPLE, cursors, strict=True):
        page = await gate.manager.changes(caller, ChangeFilter(), cursor, 100, 0)
        assert not page.has_more
        answers.append([(one.view["session_id"], one.view["type"][8:]) for one in page.entries])
        nexts.append(page.next)
    return answers, nexts


@pytest.mark.parametrize("how", ["revoked", "expired", "replaced", "replaced by a shorter one"])
async def test_a_share_that_ends_is_told_to_its_user_once_and_to_no_stranger(
    store: SessionStore, second_path: Reopen, how: str
) -> None:
    clock = FakeClock()
    async with gateway(store, clock=clock) as gate:
        await gate.manager.create_session(ALICE, NewSession(id="s"))
        expires = 60 if how == "expired" else None
        share = (await gate.manager.share(ALICE, "s", NewShare("bob", expires))).answer
        _, cursors = await told(gate, [None] * 3)
        ends = [[], [("s", "gone")], []]
        if how == "revoked":
            await gate.manager.revoke_share(ALICE, "s", share["id"])
            ends[0] = [("s", "changed")]
        elif how == "expired":
            clock.advance(61)
        elif how == "replaced":
            await gate.manager.share(ALICE, "s", NewShare("bob"))
            ends[:2] = [[("s", "changed")]] * 2
        else:
            await gate.manager.share(ALICE, "s", NewShare("bob", 60))
            clock.advance(61)
            ends[0] = [("s", "changed")]
        answers, cursors = await told(gate, cursors)
        if how == "expired":
            # The owner may be told, of a session that is as it was.
            assert answers[0] in ([], [("s", "changed")])
            answers[0] = []
        assert answers == ends
        # Long after, and in another process, a former reader is a stranger.
        clock.advance(120)
        _, cursors = await told(gate, cursors)
    store = await second_path(store)
    async with gateway(store, clock=clock) as gate:
        await gate.manager.append_events(ALICE, "s", [{"type": "custom", "name": "x"}])
        answers, cursors = await told(gate, cursors)
        reads = [("s", "changed")]
        assert answers == [reads, reads if how == "replaced" else [], []]
        await gate.manager.delete_session(ALICE, "s")
        answers, _ = await told(gate, cursors)
        gone = [("s", "gone")]
        assert answers == [gone, gone if how == "replaced" else [], []]


@pytest.mark.parametrize("is_deleted", [False, True], ids=["stays", "deleted before"])
async def test_an_erased_user_is_named_nowhere_in_what_has_changed(
    store: SessionStore, second_path: Reopen, is_deleted: bool
) -> None:
    """R11: neither in heads, nor in what is kept of deleted sessions."""
    clock = FakeClock()
    async with gateway(store, clock=clock) as gate:
        for name in ("s", "other"):
            await gate.manager.create_session(ALICE, NewSession(id=name))
            share = (await gate.manager.share(ALICE, name, NewShare("bob"))).answer
        await gate.manager.revoke_share(ALICE, "other", share["id"])
        if is_deleted:
            await gate.manager.delete_session(ALICE, "s")
        _, cursors = await told(gate, [None] * 3)
        receipt = await gate.manager.erase_user("bob")
        assert receipt["complete"]
        answers, _ = await told(gate, cursors)
        assert answers[2] == []
    store = await second_path(store)
    feed, number = await store.last_change()
    for name in ("s", "other"):
        head = await store.load(name)
        assert (head is None) == (is_deleted and name == "s")
        assert "bob" not in repr(head)
    for back in range(number + 1):
        with suppress(ChangesLost):  # an old number may be forgotten
            assert "bob" not in repr(await store.changes(feed, back, 1000))

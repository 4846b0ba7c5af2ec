"""Erasure goes forward by bounded calls, survives failures, and touches nobody else (R9, R11)."""

import pytest

from bamboo_gateway.domain import projections
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import NotFound, StorageFailed, Unavailable
from bamboo_gateway.domain.sessions import Presence
from bamboo_gateway.sessions import erasure
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.storage.reports import SessionQuery
from tests.support.gateways import Gateway, gateway, quiet

ALICE, BOB = Caller("user-alice", "alice"), Caller("user-bob", "bob")


async def owners(gate: Gateway) -> list[str]:
    """Return the owner of each session that is left."""
    query = SessionQuery(archived="include")
    page = await gate.store.query(query, Presence(gate.clock.now_ms()))
    return sorted(str(head.user_id) for head in page.heads)


async def fill(gate: Gateway, sessions: int = 5) -> None:
    for number in range(sessions):
        await gate.manager.create_session(ALICE, NewSession(id=f"a-{number}"))
        await gate.manager.add_messages(ALICE, f"a-{number}", [NewMessage("user", "hi")])
    for name in ("b-0", "b-1"):
        await gate.manager.create_session(BOB, NewSession(id=name))
        await gate.manager.share(BOB, name, NewShare("alice"))


async def test_one_call_deletes_a_bounded_number_and_the_next_goes_on(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "SESSIONS_MAX", 2)
    await fill(gate)
    found = []
    for _ in range(4):
        receipt = await gate.manager.erase_user("alice")
        found.append((receipt["sessions"], receipt["sessions_left"], receipt["complete"]))
    assert found == [(2, 3, False), (2, 1, False), (1, 0, True), (0, 0, True)]
    assert await owners(gate) == ["bob", "bob"]


async def test_what_cannot_be_deleted_is_named_and_goes_with_the_next_call(gate: Gateway) -> None:
    await fill(gate)
    gate.store.fail("delete", StorageFailed("The disk is broken."))
    receipt = await gate.manager.erase_user("alice")
    assert receipt["failed"] == [{"session_id": "a-0", "code": "storage-failed"}]
    assert (receipt["sessions"], receipt["sessions_left"], receipt["complete"]) == (4, 1, False)
    again = await gate.manager.erase_user("alice")
    assert (again["sessions"], again["complete"]) == (1, True)


async def test_keys_that_cannot_be_removed_stop_it_before_anything_is_deleted() -> None:
    async def fail(user_id: str, *, dry_run: bool = False) -> int:
        raise Unavailable("The keys are still there.")

    async with gateway(forget_keys=fail) as gate:
        await fill(gate)
        with pytest.raises(Unavailable):
            await gate.manager.erase_user("alice")
        assert len(await owners(gate)) == 7


async def test_a_run_ends_with_its_session(gate: Gateway) -> None:
    for text in ("now", "later"):
        await gate.manager.chat(ALICE, Chat(NewSession(id="a"), [NewMessage("user", text)]))
    await quiet()
    assert len(gate.agent.asked) == 1
    receipt = await gate.manager.erase_user("alice")
    assert (receipt["sessions"], receipt["complete"]) == (1, True)
    await quiet()
    assert gate.leftovers() == []
    with pytest.raises(NotFound):
        await gate.manager.get_session(ALICE, "a")
    assert len(gate.agent.asked) == 1


@pytest.mark.parametrize("how", ["revoked", "replaced and revoked", "expired", "archived"])
async def test_shares_that_have_ended_leave_the_logs_of_others_too(how: str, gate: Gateway) -> None:
    await gate.manager.create_session(BOB, NewSession(id="b"))
    expires = 60 if how == "expired" else None
    share = (await gate.manager.share(BOB, "b", NewShare("alice", expires))).answer
    if how == "replaced and revoked":
        share = (await gate.manager.share(BOB, "b", NewShare("alice"))).answer
    if how == "expired":
        gate.clock.advance(61)
        # A later share does not forget who had one before.
        await gate.manager.share(BOB, "b", NewShare("carol"))
    else:
        await gate.manager.revoke_share(BOB, "b", share["id"])
    if how == "archived":
        await gate.manager.archive(BOB, "b")
    with pytest.raises(NotFound):
        await gate.manager.revoke_share(BOB, "b", share["id"])
    assert "alice" in str(await gate.log("b"))
    dry = await gate.manager.erase_user("alice", dry_run=True)
    receipt = await gate.manager.erase_user("alice")
    assert dry["shares"] == receipt["shares"] == 1
    assert "alice" not in str(await gate.log("b"))
    head = await gate.store.load("b")
    assert head is not None
    assert "alice" not in str(head.to_json())
    assert [share.user_id for share in head.shares] == (["carol"] if how == "expired" else [])
    assert (await gate.manager.erase_user("alice"))["shares"] == 0


async def test_a_session_remembers_a_bounded_number_of_ended_shares(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "ENDED_SHARES_MAX", 3)
    await gate.manager.create_session(BOB, NewSession(id="b"))
    await gate.manager.share(BOB, "b", NewShare("stays"))
    for number in range(6):
        share = (await gate.manager.share(BOB, "b", NewShare(f"user-{number}"))).answer
        await gate.manager.revoke_share(BOB, "b", share["id"])
    await gate.manager.share(BOB, "b", NewShare())
    head = await gate.store.load("b")
    assert head is not None
    named = [share.user_id for share in head.shares]
    assert named == ["stays", "user-3", "user-4", "user-5", None]


async def test_shares_leave_the_logs_of_others_and_no_other_event_does(gate: Gateway) -> None:
    await fill(gate)
    await gate.manager.add_messages(BOB, "b-0", [NewMessage("user", "of bob")])
    await gate.manager.archive(BOB, "b-1")
    before = {name: await gate.log(name) for name in ("b-0", "b-1")}
    receipt = await gate.manager.erase_user("alice")
    assert receipt["shares"] == 2
    for name, log in before.items():
        kept = [event for event in log if event["type"] != "session_shared"]
        now = await gate.log(name)
        assert now[: len(kept)] == kept
        # Once to end it, and once to forget it.
        assert [event["type"] for event in now[len(kept) :]] == ["share_revoked"] * 2
        assert "alice" not in str(now)
    view = (await gate.manager.get_session(BOB, "b-1")).session
    assert view["state"] == "archived"

"""Sharing, over every store: what a grant opens and what not, for how long, and what is kept."""

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import (
    Forbidden,
    InvalidInput,
    LimitReached,
    NotFound,
    StorageFailed,
)
from bamboo_gateway.domain.limits import SHARES_MAX
from bamboo_gateway.sessions.commands import (
    Chat,
    Idempotency,
    NewMessage,
    NewSession,
    SessionQuery,
    StreamRequest,
)
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.storage.factory import make_store
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, Gateway, Reader, gateway, settings_of

ALICE = Caller("user-alice", "alice")
BOB = Caller("user-bob", "bob")
CAROL = Caller("user-carol", "carol")


async def make(gate: Gateway, session_id: str = "s") -> None:
    await gate.manager.create_session(ALICE, NewSession(id=session_id, title="plans"))
    await gate.manager.add_messages(ALICE, session_id, [NewMessage("user", "hi")])


async def share_with(gate: Gateway, user_id: str, **more: Any) -> str:
    wanted = NewShare(user_id, **more)
    return str((await gate.manager.share(ALICE, "s", wanted)).answer["id"])


async def link(gate: Gateway, session_id: str = "s", **more: Any) -> tuple[str, str]:
    made = (await gate.manager.share(ALICE, session_id, NewShare(None, **more))).answer
    return made["id"], made["token"]


async def came_by(gate: Gateway, token: str) -> Caller:
    caller = await gate.manager.link_caller(token)
    assert caller is not None
    return caller


async def watch(gate: Gateway, caller: Caller, name: str | None = None) -> Reader:
    request = StreamRequest(connection_id=name)
    connection = await gate.manager.connect(caller, "s", request, NATIVE)
    assert connection is not None
    reader = Reader(connection)
    await reader.take_until("open")
    return reader


async def said_goodbye(reader: Reader) -> str:
    with anyio.fail_after(DEADLINE_SECONDS):
        await reader.take_all()
    assert reader.goodbye is not None
    assert reader.goodbye["retry"] is True
    return str(reader.goodbye["reason"])


async def reads(gate: Gateway, caller: Caller, session_id: str = "s") -> bool:
    """Return whether a caller may read; all that reads has to agree."""
    life, manager = gate.manager, gate.manager
    seen = set()
    for call in (
        manager.get_session(caller, session_id),
        manager.messages(caller, session_id),
        manager.events(caller, session_id),
        life.export(caller, session_id, ExportOptions()),
        life.resume(caller, session_id),
        life.statistics(caller, session_id),
        life.tree(caller, session_id),
    ):
        try:
            await call
            seen.add(True)
        except NotFound:
            seen.add(False)
    assert len(seen) == 1
    return seen.pop()


async def test_a_grantee_reads_and_follows_and_does_nothing_else(gate: Gateway):
    await make(gate)
    life, manager = gate.manager, gate.manager
    assert not await reads(gate, BOB)
    await share_with(gate, "bob")
    assert await reads(gate, BOB)
    assert not await reads(gate, CAROL)
    async with await watch(gate, BOB) as reader:
        await manager.add_messages(ALICE, "s", [NewMessage("user", "news")])
        await reader.take_until("message")
    before = await gate.log()
    chat = Chat(NewSession(id="s"), [NewMessage("user", "mine")])
    for call in (
        manager.chat(BOB, chat),
        manager.add_messages(BOB, "s", [NewMessage("user", "mine")]),
        manager.append_events(BOB, "s", [{"type": "custom", "name": "x", "value": 1}]),
        manager.update_session(BOB, "s", {"title": "mine"}),
        manager.delete_session(BOB, "s"),
        manager.close_session(BOB, "s"),
        manager.reopen_session(BOB, "s"),
        manager.open_run(BOB, "s"),
        manager.runs(BOB, "s"),
        manager.run(BOB, "s", "r"),
        manager.cancel_session(BOB, "s"),
        manager.connections(BOB, "s"),
        manager.disconnect(BOB, "s", "c"),
        life.archive(BOB, "s"),
        life.restore(BOB, "s"),
        life.archived(BOB, "s"),
        life.delete_archived(BOB, "s"),
        life.export_to_file(BOB, "s", ExportOptions(), "a.md"),
        life.merge(BOB, "s", Merge("other")),
        life.summary(BOB, "s"),
        life.save_summary(BOB, "s", "mine"),
        life.delete_summary(BOB, "s"),
        life.write_summary(BOB, "s", None),
        life.report(BOB, "s"),
        life.extensions(BOB, "s"),
        life.bug_report(BOB, "s"),
        life.share(BOB, "s", NewShare("carol")),
        life.shares(BOB, "s"),
        life.revoke_share(BOB, "s", "share-1"),
    ):
        with pytest.raises(Forbidden):
            await call
    await manager.create_session(BOB, NewSession(id="bobs"))
    with pytest.raises(Forbidden):
        await life.merge(BOB, "bobs", Merge("s"))
    assert (await life.clean(BOB, before_ms=gate.clock.now_ms() + 1))["session_ids"] == ["bobs"]
    assert await gate.log() == before


async def test_a_fork_of_a_shared_session_is_the_forkers_and_tells_the_owner_nothing(gate: Gateway):
    await make(gate)
    await gate.manager.fork(ALICE, "s", Fork(new_id="child", new_name="second"))
    await gate.manager.share(ALICE, "child", NewShare("bob"))
    before = await gate.log("child")
    forked = (await gate.manager.fork(BOB, "child", Fork(new_id="his"))).answer
    assert forked["user_id"] == "bob"
    assert [m["content"] for m in await _messages(gate, BOB, "his")] == ["hi"]
    with pytest.raises(NotFound):
        await gate.manager.get_session(ALICE, "his")
    assert await gate.log("child") == before
    # Not inherited: neither by a fork nor, with the log, by anything else.
    assert await gate.manager.shares(BOB, "his") == []
    # Of the sessions it comes from it knows the ids, also once it may not read them any more.
    assert "plans" not in json.dumps(await gate.log("his"))
    tree = await gate.manager.tree(BOB, "his")
    assert (tree["session_id"], tree["title"], tree["state"]) == ("s", None, "deleted")
    (child,) = tree["branches"]
    assert (child["session_id"], child["title"]) == ("child", None)
    # What it is shared itself, the tree shows of it; and of its parents the ids.
    shown = await gate.manager.tree(BOB, "child")
    assert (shown["session_id"], shown["title"]) == ("s", None)
    assert shown["branches"][0]["title"] == "second"


async def _messages(gate: Gateway, caller: Caller, session_id: str) -> list[dict[str, str]]:
    page = await gate.manager.messages(caller, session_id)
    return [json.loads(message) for message in page.messages]


async def test_shared_sessions_have_a_list_of_their_own(gate: Gateway):
    await make(gate)
    await make(gate, "other")
    share_id = await share_with(gate, "bob", expires_in_seconds=60)
    with_bob = SessionQuery(shared_with="bob")

    async def shown(caller: Caller, query: SessionQuery = with_bob) -> list[str]:
        page = await gate.manager.list_sessions(caller, query)
        assert page.total == len(page.sessions)
        return [view["id"] for view in page.sessions]

    assert await shown(BOB) == ["s"]
    assert await shown(BOB, SessionQuery(shared_with="bob", user_id="alice")) == ["s"]
    assert await shown(BOB, SessionQuery()) == []
    assert await shown(CAROL) == []
    assert (await gate.manager.overall_statistics(BOB))["sessions"] == 0
    gate.clock.advance(61)
    assert await shown(BOB) == []
    assert not await reads(gate, BOB)
    await gate.manager.revoke_share(ALICE, "s", share_id)


async def test_revoking_ends_the_streams_that_stood_on_the_share_and_no_other(gate: Gateway):
    await make(gate)
    bobs = await share_with(gate, "bob")
    await share_with(gate, "carol")
    link_id, token = await link(gate)
    by_link = await came_by(gate, token)
    watching = {
        name: await watch(gate, caller)
        for name, caller in {"alice": ALICE, "bob": BOB, "carol": CAROL, "link": by_link}.items()
    }
    await gate.manager.revoke_share(ALICE, "s", bobs)
    assert await said_goodbye(watching["bob"]) == "unauthorized"
    assert not await reads(gate, BOB)
    await gate.manager.revoke_share(ALICE, "s", link_id)
    assert await said_goodbye(watching["link"]) == "unauthorized"
    assert not await reads(gate, by_link)
    assert await gate.manager.link_caller(token) is None
    await gate.manager.add_messages(ALICE, "s", [NewMessage("user", "still here")])
    for name in ("alice", "carol"):
        await watching[name].take_until("message")
        watching[name].close()
    for reader in watching.values():
        reader.close()
    with pytest.raises(NotFound, match="No share"):
        await gate.manager.revoke_share(ALICE, "s", bobs)


async def test_what_could_not_be_stored_was_neither_shared_nor_revoked(gate: Gateway):
    await make(gate)
    gate.store.fail_append()
    with pytest.raises(StorageFailed):
        await share_with(gate, "bob")
    assert not await reads(gate, BOB)
    share_id = await share_with(gate, "bob")
    async with await watch(gate, BOB) as reader:
        gate.store.fail_append()
        with pytest.raises(StorageFailed):
            await gate.manager.revoke_share(ALICE, "s", share_id)
        assert await reads(gate, BOB)
        assert reader.goodbye is None
        await gate.manager.revoke_share(ALICE, "s", share_id)
        assert await said_goodbye(reader) == "unauthorized"


async def test_streams_end_when_their_share_does(gate: Gateway):
    await make(gate)
    await share_with(gate, "bob", expires_in_seconds=60)
    async with await watch(gate, BOB) as reader:
        gate.clock.advance(61)
        for _ in range(2):
            gate.manager._hub.clock._watch_one(
                gate.live().channel, reader.connection, gate.clock.monotonic(), 10_000
            )
        assert await said_goodbye(reader) == "unauthorized"


async def test_a_grantee_cannot_push_the_owner_off_its_stream(gate: Gateway):
    await make(gate)
    await share_with(gate, "bob")
    async with (
        await watch(gate, ALICE, name="tab") as hers,
        await watch(gate, BOB, name="tab") as his,
    ):
        name = his.connection.id
        assert name != "tab"
        assert gate.live().channel.connections["tab"] is hers.connection
        # Its own it may take over, as everybody may.
        async with await watch(gate, BOB, name=name) as again:
            assert again.connection.id == name
            await his.take_all()
            assert his.goodbye is not None
            assert his.goodbye["reason"] == "superseded"


async def test_a_link_opens_its_session_and_nothing_besides(gate: Gateway):
    await make(gate)
    await make(gate, "other")
    _, token = await link(gate)
    by_link = await came_by(gate, token)
    assert by_link.session_id == "s"
    assert by_link.rights == {"read"}
    assert await reads(gate, by_link)
    assert not await reads(gate, by_link, "other")
    for call in (
        gate.manager.list_sessions(by_link, SessionQuery()),
        gate.manager.fork(by_link, "s", Fork()),
        gate.manager.add_messages(by_link, "s", [NewMessage("user", "x")]),
        gate.manager.shares(by_link, "s"),
    ):
        with pytest.raises(Forbidden):
            await call
    # A token is of one session, and is taken as a whole.
    _, others = await link(gate, "other")
    name, secret = token.split(".")
    for wrong in (
        "",
        "link_",
        token[:-1],
        token + "A",
        name + "." + "A" * 43,
        others.split(".")[0] + "." + secret,
        "link_" + "_" * 20 + "." + secret,
    ):
        assert await gate.manager.link_caller(wrong) is None, wrong
    await gate.manager.delete_session(ALICE, "s")
    await make(gate)
    assert await gate.manager.link_caller(token) is None, "of an earlier life of the id"


async def test_the_token_of_a_share_link_is_shown_once_and_stored_nowhere(
    gate: Gateway, tmp_path: Path
):
    await make(gate)
    idem = Idempotency("key", "POST /shares", "body")
    first = await gate.manager.share(ALICE, "s", NewShare(), idem)
    again = await gate.manager.share(ALICE, "s", NewShare(), idem)
    token = first.answer["token"]
    assert again.replayed
    assert again.answer == {k: v for k, v in first.answer.items() if k != "token"}
    (listed,) = await gate.manager.shares(ALICE, "s")
    assert set(listed) == {"id", "user_id", "created_at", "expires_at"}
    secret = token.split(".")[1]
    document = await gate.manager.export(ALICE, "s", ExportOptions("json"))
    exported = b"".join([chunk async for chunk in document.chunks])
    assert b"share" not in exported
    assert secret not in json.dumps(await gate.log())
    assert secret.encode() not in _everything_below(tmp_path)


def _everything_below(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_shares_are_bounded_and_one_for_each_user(gate: Gateway):
    await make(gate)
    await share_with(gate, "bob")
    last = await share_with(gate, "bob")
    assert [one["id"] for one in await gate.manager.shares(ALICE, "s")] == [last]
    with pytest.raises(InvalidInput):
        await share_with(gate, "alice")
    for number in range(SHARES_MAX - 2):
        await share_with(gate, f"user-{number}")
    await share_with(gate, "short", expires_in_seconds=1)
    with pytest.raises(LimitReached):
        await share_with(gate, "one-more")
    await share_with(gate, "bob")
    gate.clock.advance(2)
    await share_with(gate, "one-more")
    with pytest.raises(LimitReached):
        await link(gate)


async def test_what_is_read_only_is_shared_and_revoked_too(gate: Gateway):
    await make(gate)
    await gate.manager.close_session(ALICE, "s")
    share_id = await share_with(gate, "bob")
    assert await reads(gate, BOB)
    await gate.manager.archive(ALICE, "s")
    assert await reads(gate, BOB)
    archived_at = (await gate.manager.archived(ALICE, "s"))["archived_at"]
    gate.clock.advance(5)
    await gate.manager.revoke_share(ALICE, "s", share_id)
    assert not await reads(gate, BOB)
    await share_with(gate, "carol")
    assert await reads(gate, CAROL)
    view = await gate.manager.archived(ALICE, "s")
    assert (view["session"]["state"], view["archived_at"]) == ("archived", archived_at)
    assert await gate.store.inner.unpacked_archives() == [], "it is compressed again"
    restored = (await gate.manager.restore(ALICE, "s")).answer
    assert restored["state"] == "closed", "as it was before it was archived"
    assert await reads(gate, CAROL)


@pytest.mark.parametrize("url", ["jsonl:"])
async def test_shares_survive_a_restart(tmp_path: Path, url: str):
    settings = settings_of(storage_url=url, data_dir=tmp_path / "data")
    clock = FakeClock()
    store = make_store(settings, clock)
    await store.open()
    async with gateway(store, clock=clock) as gate:
        await make(gate)
        gone = await share_with(gate, "carol")
        await share_with(gate, "bob")
        _, token = await link(gate)
        await gate.manager.revoke_share(ALICE, "s", gone)
    await store.aclose()
    store = make_store(settings, clock)
    await store.open()
    async with gateway(store, clock=clock) as gate:
        assert await reads(gate, BOB)
        assert await reads(gate, await came_by(gate, token))
        assert not await reads(gate, CAROL)
        page = await gate.manager.list_sessions(BOB, SessionQuery(shared_with="bob"))
        assert [view["id"] for view in page.sessions] == ["s"]
    await store.aclose()

"""Archive and restore: out of the lists, read-only, and back the same in everything."""

import anyio
import httpx
import pytest

from bamboo_gateway.domain.errors import (
    BambooError,
    NotFound,
    RunActive,
    SessionClosed,
    StorageFull,
)
from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import Idempotency, NewMessage, SessionQuery
from tests.api.serving import refused
from tests.sessions.lifecycle.talk import create, said, talk
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually, quiet


def key(text: str) -> Idempotency:
    return Idempotency(text, "POST /archive", "body")


async def test_restoring_brings_back_the_same_session(gate: Gateway) -> None:
    await talk(gate, "s", "one", "two", title="T", metadata={"a": 1})
    await gate.manager.save_summary(ME, "s", "in short")
    before = (await gate.manager.get_session(ME, "s")).session
    log, messages = await gate.log(), await gate.messages()
    gate.clock.advance(60)
    archived = (await gate.manager.archive(ME, "s")).answer
    assert archived["session"]["state"] == "archived"
    assert await gate.messages() == messages
    restored = (await gate.manager.restore(ME, "s")).answer
    # To be restored is activity: its time to live begins anew.
    moved = ("position", "stream_after", "last_activity_at")
    assert {n: v for n, v in restored.items() if n not in moved} == {
        n: v for n, v in before.items() if n not in moved
    }
    assert (await gate.log())[: len(log)] == log
    assert [event["type"] for event in (await gate.log())[len(log) :]] == ["state_change"] * 2
    assert (await gate.manager.summary(ME, "s"))["summary"] == "in short"
    assert await gate.messages() == messages


async def test_a_closed_session_is_closed_again_once_restored(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    await gate.manager.close_session(ME, "s")
    await gate.manager.archive(ME, "s")
    assert (await gate.manager.restore(ME, "s")).answer["state"] == "closed"


async def test_an_archived_session_is_out_of_the_lists_and_read_only(gate: Gateway) -> None:
    await talk(gate, "s", "one", user_id="u")
    await talk(gate, "other", "one", user_id="u")
    await gate.manager.archive(ME, "s")
    listed = await gate.manager.list_sessions(ME, SessionQuery(user_id="u"))
    assert [one["id"] for one in listed.sessions] == ["other"]
    shown = await gate.manager.list_archived(ME, SessionQuery(user_id="u"))
    assert [one["session"]["id"] for one in shown.sessions] == ["s"]
    with pytest.raises(SessionClosed) as refusal:
        await gate.manager.add_messages(ME, "s", [NewMessage("user", "more")])
    assert refusal.value.code == "session-archived"
    with pytest.raises(NotFound):
        await gate.manager.archived(ME, "other")
    with pytest.raises(NotFound):
        await gate.manager.delete_archived(ME, "other")
    await gate.manager.delete_archived(ME, "s")
    assert await gate.store.load("s") is None


async def test_a_stream_on_it_gets_what_is_left_and_goodbye(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    reader = await gate.reader()
    await reader.take_until("open")
    await gate.manager.archive(ME, "s")
    frames = await reader.take_all()
    assert [frame.type for frame in frames[-2:]] == ["state_change", "goodbye"]
    assert reader.goodbye is not None
    assert reader.goodbye["reason"] == "closed"


async def test_a_session_with_a_run_is_not_archived(gate: Gateway) -> None:
    await gate.chat(run_id="r")
    with pytest.raises(RunActive):
        await gate.manager.archive(ME, "s")
    await gate.manager.cancel_session(ME, "s")
    await gate.manager.archive(ME, "s")


async def test_archiving_twice_is_archiving_once(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    first = await gate.manager.archive(ME, "s", key("k"))
    again = await gate.manager.archive(ME, "s")
    other = await gate.manager.archive(ME, "s", key("k2"))
    replayed = await gate.manager.archive(ME, "s", key("k"))
    assert again.answer == first.answer == other.answer == replayed.answer
    assert replayed.replayed
    assert (await gate.types()).count("state_change") == 1


async def test_what_could_not_be_packed_is_archived_and_packed_later(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    gate.store.fail("pack", StorageFull("No space."))
    answer = (await gate.manager.archive(ME, "s")).answer
    assert answer["session"]["state"] == "archived"
    if await gate.store.unpacked_archives():
        await gate.manager.archive(ME, "s")
    assert await gate.store.unpacked_archives() == []


async def test_many_are_archived_each_by_itself(gate: Gateway) -> None:
    for name in ("a", "b", "c"):
        await talk(gate, name, "one")
    await gate.chat("b", run_id="r")
    done = (await gate.manager.archive_each(ME, ["a", "b", "none", "../x", "c"])).answer
    assert [one["session_id"] for one in done["archived"]] == ["a", "c"]
    assert all(one["bytes"] > 0 for one in done["archived"])
    codes = {one["session_id"]: one["code"] for one in done["failed"]}
    assert codes == {"b": "run-active", "none": "session-not-found", "../x": "invalid-id"}
    back = (await gate.manager.restore_each(ME, ["a", "b", "c"])).answer
    assert [one["session_id"] for one in back["restored"]] == ["a", "c"]
    assert [one["code"] for one in back["failed"]] == ["not-archived"]


async def test_many_are_archived_once_for_a_key_and_a_repeat_says_that_it_is_one(
    gate: Gateway,
) -> None:
    life = gate.manager
    for name in ("a", "b"):
        await talk(gate, name, "one")
    once = key("k")
    assert not (await life.archive_each(ME, ["a"], once)).replayed
    assert (await life.archive_each(ME, ["a", "none"], once)).replayed
    assert not (await life.archive_each(ME, ["a", "b"], once)).replayed
    back = Idempotency("k", "POST /archive/restore", "body")
    assert not (await life.restore_each(ME, ["a", "b"], back)).replayed
    assert (await life.archive_each(ME, ["a", "b"], once)).replayed
    assert (await gate.manager.get_session(ME, "a")).session["state"] == "idle"
    assert not (await life.archive_each(ME, ["none"], once)).replayed


async def test_a_restored_session_goes_on(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    await gate.manager.archive(ME, "s")
    await gate.manager.restore(ME, "s")
    started = await gate.chat("s", "two", run_id="r")
    assert started["status"] == "running"
    await eventually(lambda: "r" in gate.agent.asked)


async def test_what_is_restored_while_it_is_being_packed_goes_on(
    gate: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that is packed after its session came back would take nothing ever again."""
    await talk(gate, "s", "one")
    store = gate.store.inner
    pack, asked, allowed = store.pack, anyio.Event(), anyio.Event()

    async def late(session_id: str, epoch: int) -> None:
        asked.set()
        await allowed.wait()
        await pack(session_id, epoch)

    monkeypatch.setattr(store, "pack", late)
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gate.manager.archive, ME, "s")
            await asked.wait()
            tasks.start_soon(gate.manager.restore, ME, "s")
            await quiet()
            allowed.set()
        gate.agent.do("r", Token("ok"), Complete())
        await gate.chat("s", "two", run_id="r")
        await gate.ended("r")
    assert (await gate.manager.get_session(ME, "s")).session["state"] == "idle"


def test_the_archive_over_http(api: httpx.Client) -> None:
    create(api, "web", "hello", user_id="web-user")
    archived = api.post("/sessions/web/archive").json()
    assert archived["session"]["state"] == "archived"
    assert archived["original_bytes"] > 0
    assert archived["bytes"] > 0
    assert api.get("/archive/web").json() == archived
    page = api.get("/archive", params={"user_id": "web-user"}).json()
    assert page["archives"] == [archived]
    assert page["total"] == 1
    assert api.get("/sessions", params={"user_id": "web-user"}).json()["sessions"] == []
    state = api.get("/sessions", params={"user_id": "web-user", "state": "archived"})
    assert len(state.json()["sessions"]) == 1
    chat = {"message": "x", "session_id": "web"}
    refused(api.post("/chat", json=chat), 409, "session-archived")
    assert len(said(api, "web")) == 1
    assert api.get("/sessions/web/export").status_code == 200
    assert api.post("/sessions/web/restore").json()["state"] == "idle"
    refused(api.post("/sessions/web/restore"), 409, "not-archived")
    refused(api.get("/archive/web"), 404, "archive-not-found")
    refused(api.delete("/archive/web"), 404, "archive-not-found")
    api.post("/sessions/web/archive")
    assert api.delete("/archive/web").status_code == 204
    refused(api.get("/sessions/web"), 404, "session-not-found")


def test_bulk_archiving_over_http(api: httpx.Client) -> None:
    create(api, "bulk-1", "hello")
    create(api, "bulk-2", "hello")
    names = ["bulk-1", "bulk-2", "bulk-none", "../etc"]
    done = api.post("/archive", json={"session_ids": names}).json()
    assert [one["session_id"] for one in done["archived"]] == names[:2]
    assert [one["code"] for one in done["failed"]] == ["session-not-found", "invalid-id"]
    back = api.post("/archive/restore", json={"session_ids": names}).json()
    assert [one["session_id"] for one in back["restored"]] == names[:2]
    refused(api.post("/archive", json={"session_ids": []}), 422, "invalid")
    keyed = {"Idempotency-Key": "bulk"}
    body = {"session_ids": ["bulk-1"]}
    assert api.post("/archive", json=body, headers=keyed).json()["archived"]
    api.post("/sessions/bulk-1/restore")
    # Whoever sends it again learns what was done, and nothing is done again.
    assert api.post("/archive", json=body, headers=keyed).json()["failed"] == []
    assert api.get("/sessions/bulk-1").json()["state"] == "idle"


async def test_an_archive_that_is_refused_leaves_the_session_as_it_was(gate: Gateway) -> None:
    await talk(gate, "s", "one")
    before = await gate.log()
    gate.store.fail_append()
    with pytest.raises(BambooError):
        await gate.manager.archive(ME, "s")
    assert await gate.log() == before
    assert (await gate.manager.get_session(ME, "s")).session["state"] == "idle"

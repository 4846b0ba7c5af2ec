"""Fork: the beginning of a conversation as a new session, whole exchanges only."""

import anyio
import httpx
import pytest

from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound, SessionExists
from bamboo_gateway.sessions.commands import Idempotency, NewMessage
from bamboo_gateway.sessions.lifecycle.fork import Fork
from tests.api.serving import refused
from tests.sessions.lifecycle.talk import create, exchange, ids, said, say, talk, texts
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway


async def fork(gate: Gateway, child: str, parent: str = "s", **wanted: object) -> dict[str, object]:
    outcome = await gate.manager.fork(ME, parent, Fork(new_id=child, **wanted))  # type: ignore[arg-type]
    return {**outcome.answer}


async def test_a_fork_has_everything_unless_told_where_to_cut(gate: Gateway) -> None:
    named = await talk(gate, "s", "a", "b", "c")
    await fork(gate, "all")
    await fork(gate, "by-id", message_id=named[1])
    await fork(gate, "by-index", message_index=0)
    assert await ids(gate, "all") == named
    assert await ids(gate, "by-id") == named[:2]
    assert await ids(gate, "by-index") == named[:1]
    assert await ids(gate, "s") == named


async def test_the_link_is_in_both_and_the_rest_is_inherited(gate: Gateway) -> None:
    named = await talk(
        gate, "s", "a", "b", title="T", user_id="u", working_dir="/w", metadata={"m": 1}
    )
    child = await fork(gate, "c", message_id=named[0])
    assert child["title"] == "T (fork)"
    assert (child["user_id"], child["working_dir"], child["metadata"]) == ("u", "/w", {"m": 1})
    assert isinstance(child["parent"], dict)
    assert child["parent"]["session_id"] == "s"
    assert child["parent"]["message_id"] == named[0]
    told = [event for event in await gate.log("s") if event["type"] == "session_forked"]
    assert [event["child_id"] for event in told] == ["c"]
    reset = await fork(gate, "r", metadata_strategy="reset", new_name="Other")
    assert (reset["metadata"], reset["extension_data"], reset["title"]) == ({}, {}, "Other")


async def test_a_cut_inside_an_exchange_moves_behind_its_results(gate: Gateway) -> None:
    await talk(gate, "s", "a")
    calls = await say(gate, "s", *exchange("x", "y"))
    await say(gate, "s", NewMessage("user", "after"))
    child: dict[str, object] = {}
    for number, place in enumerate(calls):
        child = await fork(gate, f"c{number}", message_id=place)
        assert (await ids(gate, f"c{number}"))[-1] == calls[-1]
        assert child.get("cut_moved", False) == (place != calls[-1])
    assert child["parent"]["message_id"] == calls[-1]  # type: ignore[index]


async def test_a_cut_moves_before_calls_whose_results_are_still_to_come(gate: Gateway) -> None:
    named = await talk(gate, "s", "a")
    open_call = [{"id": "x", "name": "look", "arguments": {}}]
    calls = await say(gate, "s", NewMessage("assistant", "", tool_calls=open_call))
    child = await fork(gate, "c")
    assert child["cut_moved"] is True
    assert await ids(gate, "c") == named
    assert (await fork(gate, "d", message_id=calls[0]))["cut_moved"] is True
    assert await ids(gate, "d") == named
    # The child goes on by itself: nothing in it waits for a result.
    await say(gate, "c", NewMessage("user", "on"))


async def test_a_fork_of_nothing_but_open_calls_is_empty(gate: Gateway) -> None:
    await talk(gate, "s")
    open_call = [{"id": "x", "name": "look", "arguments": {}}]
    await say(gate, "s", NewMessage("assistant", "", tool_calls=open_call))
    await fork(gate, "c")
    assert await ids(gate, "c") == []


async def test_archived_and_closed_sessions_are_forked_and_running_ones_too(gate: Gateway) -> None:
    named = await talk(gate, "s", "a")
    await gate.manager.archive(ME, "s")
    await fork(gate, "c")
    assert await ids(gate, "c") == named
    await talk(gate, "closed", "a")
    await gate.manager.close_session(ME, "closed")
    assert (await fork(gate, "c2", "closed"))["state"] == "idle"
    await gate.chat("busy", "hi", run_id="r")
    await fork(gate, "c3", "busy")
    assert await texts(gate, "c3") == ["hi"]


async def test_what_cannot_be_forked_is_said(gate: Gateway) -> None:
    await talk(gate, "s", "a")
    with pytest.raises(NotFound):
        await fork(gate, "c", "nobody")
    for wrong in ({"message_id": "none"}, {"message_index": 7}):
        with pytest.raises(NotFound) as refusal:
            await fork(gate, "c", **wrong)
        assert refusal.value.code == "message-not-found"
    with pytest.raises(InvalidInput):
        await fork(gate, "c", message_id="x", message_index=1)
    with pytest.raises(SessionExists):
        await fork(gate, "s2", "s") and await fork(gate, "s2", "s")
    with pytest.raises(BambooError):
        await fork(gate, "s", "s")


async def test_a_repeat_with_the_key_is_the_same_fork_also_when_both_come_at_once(
    gate: Gateway,
) -> None:
    await talk(gate, "s", "a")
    key = Idempotency("k", "POST /sessions/s/fork", "body")
    answers = []

    async def once() -> None:
        answers.append((await gate.manager.fork(ME, "s", Fork(), key)).answer)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(once)
    assert all(answer == answers[0] for answer in answers)
    await gate.manager.delete_session(ME, "s")
    again = await gate.manager.fork(ME, "s", Fork(), key)
    assert again.replayed
    assert again.answer == answers[0]


async def test_a_parent_deleted_meanwhile_leaves_no_child(gate: Gateway) -> None:
    await talk(gate, "s", "a")
    gate.store.hold("find")
    failed: list[BambooError] = []

    async def try_it() -> None:
        try:
            await fork(gate, "c")
        except BambooError as error:
            failed.append(error)

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(try_it)
            while not gate.store.waiting.get("find"):
                await anyio.lowlevel.checkpoint()
            await gate.manager.delete_session(ME, "s")
            gate.store.let_go("find")
    assert [error.code for error in failed] == ["session-not-found"]
    assert await gate.store.load("c") is None


async def test_a_fork_reads_nothing_behind_its_last_message(gate: Gateway) -> None:
    named = await talk(gate, "s", "a", "b")
    reads: list[int] = []
    find = gate.store.inner.find

    async def counting(*args: object, **named: object) -> object:
        found = await find(*args, **named)  # type: ignore[arg-type]
        reads.append(len(found))
        return found

    async def cost(child: str) -> int:
        reads.clear()
        await fork(gate, child, message_id=named[0])
        return sum(reads)

    gate.store.inner.find = counting  # type: ignore[method-assign,assignment]
    first = await cost("c1")
    for _ in range(20):
        await say(gate, "s", *(NewMessage("user", "more") for _ in range(50)))
    assert await cost("c2") == first


def test_forks_over_http(api: httpx.Client) -> None:
    named = create(api, "web-parent", "a", "b", title="P")
    made = api.post("/sessions/web-parent/fork", json={"from_message_id": named[0]})
    assert made.status_code == 201
    child = made.json()
    assert made.headers["location"] == f"/api/v1/sessions/{child['id']}"
    assert [message["id"] for message in said(api, child["id"])] == named[:1]
    assert api.post("/sessions/web-parent/fork").status_code == 201
    keyed = {"Idempotency-Key": "f"}
    first = api.post("/sessions/web-parent/fork", json={}, headers=keyed)
    again = api.post("/sessions/web-parent/fork", json={}, headers=keyed)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    listed = api.get("/sessions", params={"parent_id": "web-parent"}).json()["sessions"]
    assert len(listed) == 3
    path = "/sessions/web-parent/fork"
    refused(api.post(path, json={"from_message_index": 9}), 404, "message-not-found")
    refused(api.post(path, json={"new_id": "web-parent"}), 422, "invalid-id")
    refused(api.post(path, json={"new_id": child["id"]}), 409, "session-exists")
    refused(api.post(path, json={"from_message_index": -1}), 422, "invalid")
    refused(api.post("/sessions/no-one/fork"), 404, "session-not-found")

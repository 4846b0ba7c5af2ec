"""Trees, summaries, statistics, cleanup, extension data."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from bamboo_gateway.domain.errors import BambooError, InvalidInput, NotFound, SessionExpired
from bamboo_gateway.domain.events import Complete, Token, Usage
from bamboo_gateway.sessions.answers import TreeNode
from bamboo_gateway.sessions.commands import Idempotency, NewMessage
from bamboo_gateway.sessions.lifecycle.fork import ANCESTORS_MAX, Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.storage.reports import SessionQuery
from tests.api.serving import SECONDS, refused, serving
from tests.sessions.lifecycle.talk import create, exchange, resumed_message, say, talk
from tests.support.clients import local_client
from tests.support.gateways import ME, Gateway, eventually

DAY = 24 * 3600


def flat(node: TreeNode) -> dict[str, TreeNode]:
    """Return a tree's sessions by id."""
    found = {node["session_id"]: node}
    for branch in node["branches"]:
        found |= flat(branch)
    return found


async def test_the_tree_is_whole_from_wherever_it_is_asked(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "root", "a", title="Root")
    for parent, child in (("root", "x"), ("root", "y"), ("x", "x1"), ("x1", "x2")):
        gate.clock.advance(1)
        await life.fork(ME, parent, Fork(new_id=child))
    await life.merge(ME, "y", Merge("x2"))
    await gate.manager.delete_session(ME, "x1")
    await life.archive(ME, "x2")
    trees = [await life.tree(ME, name) for name in ("root", "x", "y", "x2")]
    assert [tree["current"] for tree in trees] == ["root", "x", "y", "x2"]
    nodes = flat(trees[0])
    assert {name: node["state"] for name, node in nodes.items()} == {
        "root": "idle",
        "x": "idle",
        "y": "idle",
        "x1": "deleted",
        "x2": "archived",
    }
    assert [node["session_id"] for node in nodes["root"]["branches"]] == ["x", "y"]
    assert [node["session_id"] for node in nodes["x1"]["branches"]] == ["x2"]
    assert nodes["y"]["merged_from"] == ["x2"]
    assert nodes["x1"]["forked_at"] is not None
    assert all(tree | {"current": ""} == trees[0] | {"current": ""} for tree in trees)
    await gate.manager.delete_session(ME, "root")
    assert (await life.tree(ME, "y"))["state"] == "deleted"


async def test_a_chain_of_forks_ends_at_its_bound(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "f0")
    for number in range(ANCESTORS_MAX):
        await life.fork(ME, f"f{number}", Fork(new_id=f"f{number + 1}", new_name="x"))
    with pytest.raises(InvalidInput):
        await life.fork(ME, f"f{ANCESTORS_MAX}", Fork(new_id="deeper"))
    node: TreeNode = await life.tree(ME, "f7")
    depth = 0
    while node["branches"]:
        (node,) = node["branches"]
        depth += 1
    assert depth == ANCESTORS_MAX


def test_a_deep_tree_is_answered_over_http(api: httpx.Client) -> None:
    create(api, "deep-0")
    for number in range(130):
        path = f"/sessions/deep-{number}/fork"
        body = {"new_id": f"deep-{number + 1}", "new_name": "x"}
        assert api.post(path, json=body).status_code == 201
    # Held against the contract elsewhere: the validator does not nest so deep.
    with local_client(base_url=api.base_url, timeout=SECONDS) as plain:
        tree = json.loads(plain.get("/sessions/deep-3/tree").content)
    assert len(flat(tree)) == 131


def test_trees_over_http(api: httpx.Client) -> None:
    create(api, "tree-1", "a")
    api.post("/sessions/tree-1/fork", json={"new_id": "tree-2"})
    api.delete("/sessions/tree-1")
    tree = api.get("/sessions/tree-2/tree").json()
    assert (tree["session_id"], tree["state"], tree["current"]) == ("tree-1", "deleted", "tree-2")
    assert tree["branches"][0]["session_id"] == "tree-2"
    refused(api.get("/sessions/tree-1/tree"), 404, "session-not-found")


async def test_agents_get_the_summary_in_place_of_what_it_covers(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "s", "old one", "old two")
    await life.save_summary(ME, "s", "They spoke of old things.")
    await gate.chat("s", "new", run_id="r")
    await eventually(lambda: gate.agent.script("r").turn)
    turn = gate.agent.script("r").turn
    assert turn is not None
    spoken = [message.text for message in turn.messages]
    assert "They spoke of old things." in spoken[0]
    assert spoken[1:] == ["new"]
    await gate.manager.cancel_session(ME, "s")
    await life.delete_summary(ME, "s")
    with pytest.raises(NotFound):
        await life.summary(ME, "s")
    await gate.chat("s", "newer", run_id="r2")
    await eventually(lambda: gate.agent.script("r2").turn)
    turn = gate.agent.script("r2").turn
    assert turn is not None
    assert [m.text for m in turn.messages] == ["old one", "old two", "new", "newer"]


async def test_resuming_carries_the_summary_and_every_turn_since(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "s", "old")
    await life.save_summary(ME, "s", "In short.")
    await say(gate, "s", NewMessage("user", "since"), *exchange("x"))
    message = await resumed_message(gate, "s")
    assert message["role"] == "user"
    for part in ("In short.", "since", "look", "result x"):
        assert part in message["content"]
    assert "old" not in message["content"]
    assert "without asking" not in message["content"]
    alone = (await resumed_message(gate, "s", interactive=False))["content"]
    assert "without asking" in alone


async def test_an_agent_writes_the_summary_once_for_a_key(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "s", "a")
    head = await gate.store.load("s")
    assert head is not None
    gate.agent.do(f"summary-{head.seq}", Token("Short."), Complete())
    key = Idempotency("k", "POST /summary", "body")
    first = await life.write_summary(ME, "s", None, key)
    assert first.answer["summary"] == "Short."
    assert first.answer["position"] == str(head.position)
    again = await life.write_summary(ME, "s", None, key)
    assert (again.replayed, again.answer) == (True, first.answer)
    assert gate.agent.asked == [f"summary-{head.seq}"]
    await talk(gate, "empty")
    with pytest.raises(InvalidInput) as refusal:
        await life.write_summary(ME, "empty", None)
    assert refusal.value.code == "nothing-said"


def test_summaries_over_http(api: httpx.Client) -> None:
    create(api, "sum-1", "a", "b", user_id="sum-user")
    refused(api.get("/sessions/sum-1/summary"), 404, "summary-not-found")
    refused(api.delete("/sessions/sum-1/summary"), 404, "summary-not-found")
    put = api.put("/sessions/sum-1/summary", json={"summary": "short", "turn_count": 2})
    assert put.json()["turn_count"] == 2
    assert api.get("/sessions/sum-1/summary").json() == put.json()
    listed = api.get("/summaries", params={"user_id": "sum-user"}).json()["summaries"]
    assert listed == [put.json()]
    wrong = {"summary": "x", "position": "1-1"}
    refused(api.put("/sessions/sum-1/summary", json=wrong), 422, "invalid-position")
    assert api.get("/sessions/sum-1/resume", params={"interactive": "false"}).status_code == 200
    written = api.post("/sessions/sum-1/summary")
    assert written.status_code == 201
    assert written.json()["summary"]
    refused(api.post("/sessions/sum-1/summary", json={"agent": "bob"}), 422, "unknown-agent")
    assert api.delete("/sessions/sum-1/summary").status_code == 204


async def test_statistics_count_what_was_said_and_done(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "s", "a")
    await say(gate, "s", *exchange("x", "y"))
    await gate.chat("s", "go", run_id="r")
    await eventually(lambda: "r" in gate.agent.asked)
    gate.clock.advance(3)
    gate.agent.do("r", Token("ok"), Complete(usage=Usage(1, 2, 3)))
    await gate.ended("r")
    counted = await life.statistics(ME, "s")
    expected = {
        "total_messages": 6,
        "user_messages": 2,
        "assistant_messages": 2,
        "tool_messages": 2,
        "tool_calls": 2,
        "total_tokens": 3,
        "active_seconds": 3.0,
    }
    assert counted.items() >= expected.items()
    assert counted["runs"]["completed"] == 1
    await life.archive(ME, "s")
    assert await life.statistics(ME, "s") == counted
    overall = await life.overall_statistics(ME)
    assert overall["by_state"] == {"archived": 1}
    assert (overall["sessions"], overall["total_messages"], overall["runs"]) == (1, 6, 1)


def test_reports_over_http(api: httpx.Client) -> None:
    create(api, "rep-1", "a", title="| *bold* <b>\n# x")
    report = api.get("/sessions/rep-1/report").json()
    assert report["statistics"] == api.get("/sessions/rep-1/statistics").json()
    text = api.get("/sessions/rep-1/report", headers={"Accept": "text/markdown"}).text
    assert text.startswith("# \\| \\*bold\\* \\<b\\> \\# x\n")
    overall = api.get("/statistics").json()
    assert overall["sessions"] >= 1
    assert len(overall["most_active"]) <= 10
    refused(api.get("/sessions/nobody/statistics"), 404, "session-not-found")


def files_naming(root: Path, name: str) -> list[str]:
    """Return the files that still know a session, by name or by what is in them."""
    return [
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and (name in file.name or name.encode() in file.read_bytes())
    ]


async def test_cleanup_takes_what_is_due_and_nothing_else(gate: Gateway) -> None:
    life = gate.manager
    await talk(gate, "zz-ttl", "a", ttl_seconds=60)
    await talk(gate, "zz-old", "a")
    await talk(gate, "archived", "a")
    await talk(gate, "watched", "a")
    await gate.chat("running", run_id="r")
    await life.archive(ME, "archived")
    reader = await gate.reader("watched")
    gate.clock.advance(60 + 30 * DAY)
    looked = await life.clean(ME, dry_run=True)
    assert (looked["session_ids"], looked["dry_run"]) == (["zz-ttl"], True)
    done = await life.clean(ME)
    assert done["session_ids"] == ["zz-ttl"]
    assert done["bytes_freed"] >= looked["bytes_freed"] > 0
    assert (await life.clean(ME))["sessions_cleaned"] == 0
    await talk(gate, "fresh", "a")
    before_ms = gate.clock.now_ms() - DAY * 1000
    looked = await life.clean(ME, before_ms=before_ms, dry_run=True)
    done = await life.clean(ME, before_ms=before_ms)
    assert done["session_ids"] == looked["session_ids"] == ["archived", "zz-old"]
    assert (done["sessions_cleaned"], done["archives_cleaned"]) == (1, 1)
    for name in ("watched", "running", "fresh"):
        assert await gate.store.load(name) is not None
    reader.close()
    forced = await life.clean(ME, before_ms=gate.clock.now_ms() + 1)
    assert set(forced["session_ids"]) == {"fresh", "watched"}
    assert await gate.store.load("running") is not None


async def test_nothing_of_a_cleaned_session_stays_on_the_disk_but_that_it_is_gone(
    tmp_path: Path,
) -> None:
    """Whoever asks for changes is told of the deletion, so its id stays, and nothing it said."""
    with serving(
        storage_url="jsonl:",
        data_dir=tmp_path / "data",
        audit_log=tmp_path / "audit.jsonl",  # it names what was deleted: that is what it is for
        checkpoint_interval_seconds=0.05,
    ) as served, served.client() as api:  # fmt: skip
        create(api, "zz-gone", "zz-said", title="zz-titled", metadata={"k": "zz-noted"})
        api.put("/sessions/zz-gone/summary", json={"summary": "zz-summed"})
        keyed = {"Idempotency-Key": "k"}
        chat = {"message": "x", "session_id": "zz-gone", "on_busy": "reject"}
        api.post("/chat", json=chat, headers={**keyed, "Prefer": "wait=60"})
        create(api, "zz-gone-archived", "zz-said")
        api.post("/sessions/zz-gone-archived/archive")
        looked = api.post("/cleanup", json={"before": "2999-01-01T00:00:00Z", "dry_run": True})
        done = api.post("/cleanup", json={"before": "2999-01-01T00:00:00Z"}).json()
        assert done["sessions_cleaned"] == 1
        assert done["archives_cleaned"] == 1
        assert done["bytes_freed"] >= looked.json()["bytes_freed"] * 0.5
    assert files_naming(tmp_path / "data", "zz-gone") == ["index/catalog.jsonl"]
    for text in ("zz-said", "zz-titled", "zz-summed", "zz-noted"):
        assert files_naming(tmp_path, text) == []


async def test_a_cleanup_that_is_repeated_touches_nothing_made_or_used_since(
    gate: Gateway,
) -> None:
    for name in ("old", "watched"):
        await talk(gate, name, "a")
    before_ms = gate.clock.now_ms() + 1
    reader = await gate.reader("watched")
    gate.clock.advance(DAY)
    life = gate.manager
    assert (await life.clean(ME, before_ms=before_ms))["session_ids"] == ["old"]
    reader.close()
    await talk(gate, "old", "made anew under its id")
    assert (await life.clean(ME, before_ms=before_ms))["session_ids"] == []
    for name in ("old", "watched"):
        assert await gate.store.load(name) is not None


async def test_a_closed_session_expires_and_an_archived_one_does_not(gate: Gateway) -> None:
    for name in ("closed", "kept"):
        await talk(gate, name, "a", ttl_seconds=60)
    await gate.manager.close_session(ME, "closed")
    await gate.manager.archive(ME, "kept")
    gate.clock.advance(61)
    listed = await gate.manager.list_sessions(ME, SessionQuery(state="expired"))
    assert [one["id"] for one in listed.sessions] == ["closed"]
    with pytest.raises(SessionExpired):
        await gate.manager.close_session(ME, "closed")
    kept = (await gate.manager.get_session(ME, "kept")).session
    assert (kept["state"], kept["expires_at"], kept["ttl_seconds"]) == ("archived", None, 60)
    gate.clock.advance(30 * DAY)
    assert (await gate.manager.clean(ME))["session_ids"] == ["closed"]


def test_cleanup_refuses_what_is_no_time(api: httpx.Client) -> None:
    refused(api.post("/cleanup", json={"before": "yesterday"}), 422, "invalid")
    assert api.post("/cleanup").json()["sessions_cleaned"] == 0
    assert api.post("/cleanup", json={"dry_run": True}).json()["dry_run"] is True


def test_extension_data_over_http(api: httpx.Client) -> None:
    create(api, "ext-1")
    path = "/sessions/ext-1/extensions"
    empty: dict[str, Any] = {"enabled_extensions": [], "todo_state": None, "custom": {}}
    assert api.get(path).json() == empty
    one = api.put(f"{path}/memory", json={"config": {"a": 1}})
    assert one.json() == {"name": "memory", "config": {"a": 1}, "enabled": True}
    assert api.get(f"{path}/memory").json() == one.json()
    refused(api.get("/sessions/ext-1/todo"), 404, "todo-not-found")
    assert api.put("/sessions/ext-1/todo", json={"content": "- x"}).json() == {"content": "- x"}
    assert api.get("/sessions/ext-1/todo").json() == {"content": "- x"}
    patched = api.patch(path, json={"custom": {"a": 1, "b": {"c": 2}}}).json()
    assert patched["custom"] == {"a": 1, "b": {"c": 2}}
    patched = api.patch(path, json={"custom": {"a": None}, "todo_state": None}).json()
    assert patched == {
        "enabled_extensions": [one.json()],
        "todo_state": None,
        "custom": {"b": {"c": 2}},
    }
    assert api.get("/sessions/ext-1").json()["extension_data"]["custom"] == {"b": {"c": 2}}
    assert api.put(path, json={"custom": {"z": 1}}).json() == {**empty, "custom": {"z": 1}}
    refused(api.delete(f"{path}/memory"), 404, "extension-not-found")
    api.put(f"{path}/memory", json={})
    assert api.delete(f"{path}/memory").status_code == 204
    refused(api.get(f"{path}/memory"), 404, "extension-not-found")
    wrong = {"todo_state": {"content": 5}}
    assert api.patch(path, json=wrong).status_code == 422
    big = {"custom": {"x": "y" * 2_000_000}}
    assert api.put(path, json=big).status_code in {413, 422}


@pytest.mark.parametrize("char", "\n\r\t\0\x1b\x7f\x85\u2028\u2029")
def test_the_name_of_an_extension_holds_no_control_character(api: httpx.Client, char: str) -> None:
    session_id = api.post("/sessions", json={}).json()["id"]
    path = f"/sessions/{session_id}/extensions"
    for name in (char, f"memory{char}", f"mem{char}ory"):
        url = f"{path}/{quote(name, safe='')}"
        for answer in (api.put(url, json={}), api.get(url), api.delete(url)):
            problem = refused(answer, 422, "invalid")
            assert problem["detail"].startswith("path.name: an extension's name holds no control")
        listed = {"enabled_extensions": [{"name": "a"}, {"name": name}]}
        for answer in (api.put(path, json=listed), api.patch(path, json=listed)):
            problem = refused(answer, 422, "invalid")
            assert problem["errors"][0]["loc"] == ["body", "enabled_extensions", 1, "name"]
    assert api.get(path).json()["enabled_extensions"] == []


@pytest.mark.parametrize("name", ["a b", "größe", "名前", "👩\u200d🚀", "a.b:c@d%e", "x" * 256])
def test_the_name_of_an_extension_may_be_any_other_text(api: httpx.Client, name: str) -> None:
    session_id = api.post("/sessions", json={}).json()["id"]
    url = f"/sessions/{session_id}/extensions/{quote(name, safe='')}"
    assert api.put(url, json={}).json()["name"] == name
    assert api.get(url).json()["name"] == name
    assert api.delete(url).status_code == 204


def test_what_an_extension_leaves_out_is_filled_in(api: httpx.Client) -> None:
    api.post("/sessions", json={"id": "ext-2"})
    path = "/sessions/ext-2/extensions"
    filled = {"name": "memory", "config": {}, "enabled": True}
    changed = api.patch(path, json={"enabled_extensions": [{"name": "memory"}]}).json()
    assert changed["enabled_extensions"] == [filled]
    assert api.get(f"{path}/memory").json() == filled


@pytest.mark.parametrize("enabled", ["memory", {"a": 1}, [1], ["memory"], [{"name": 1}], 5])
def test_extension_data_of_another_shape_is_never_shown_changed_or_reset(
    api: httpx.Client, enabled: Any
) -> None:
    data = {"enabled_extensions": enabled, "todo_state": [], "custom": 1}
    session_id = api.post("/sessions", json={"extension_data": data}).json()["id"]
    path = f"/sessions/{session_id}/extensions"
    empty: dict[str, Any] = {"enabled_extensions": [], "todo_state": None, "custom": {}}
    assert api.get(path).json() == empty
    refused(api.get(f"{path}/memory"), 404, "extension-not-found")
    one = {"config": {}, "enabled": True}
    refused(api.put(f"{path}/memory", json=one), 422, "invalid-extension-data")
    refused(api.delete(f"{path}/memory"), 404, "extension-not-found")
    assert api.get(f"/sessions/{session_id}").json()["extension_data"] == data
    assert api.put(path, json=empty).json() == empty


async def test_each_change_of_extension_data_is_an_event(gate: Gateway) -> None:
    from bamboo_gateway.sessions.extensions import put_todo

    await talk(gate, "s")
    for _ in range(2):
        await gate.manager.change_extensions(ME, "s", put_todo("x"))
    assert (await gate.types()).count("extensions_updated") == 1
    await gate.manager.close_session(ME, "s")
    with pytest.raises(BambooError):
        await gate.manager.change_extensions(ME, "s", put_todo("y"))

"""Export and import: whole documents, files only where they belong, nothing in part."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bamboo_gateway.domain.errors import BambooError, StorageFailed
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from tests.api.serving import CONTRACT, refused, serving
from tests.sessions.lifecycle.talk import create, exchange, ids, resumed_message, said, say, talk
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway

SAMPLES = Path(__file__).parents[2] / "exporters" / "samples"
MOVED = {"position", "updated_at", "last_activity_at"}
"""What a document says of the log it came from, and is another's after an import."""


def constant(document: dict[str, Any]) -> dict[str, Any]:
    """Return what an import keeps of a document."""
    session = {n: v for n, v in document["session"].items() if n not in MOVED}
    summary = document["summary"] and {
        n: v for n, v in document["summary"].items() if n != "position"
    }
    return document | {"session": session, "summary": summary}


def exported(api: httpx.Client, session_id: str, form: str = "json", **options: bool) -> bytes:
    answer = api.get(f"/sessions/{session_id}/export", params={"format": form, **options})
    assert answer.status_code == 200
    return answer.content


def test_the_three_formats_come_as_attachments(api: httpx.Client) -> None:
    create(api, "e-1", "hello", title="My chat / ../x\n")
    kinds = {"markdown": "text/markdown", "json": "application/json", "yaml": "application/yaml"}
    for form, kind in kinds.items():
        answer = api.get("/sessions/e-1/export", params={"format": form})
        assert answer.headers["content-type"].startswith(kind)
        disposition = answer.headers["content-disposition"]
        assert disposition.startswith("attachment; ")
        assert "/" not in disposition
        assert "\n" not in disposition
        assert "hello" in answer.text
    refused(api.get("/sessions/e-1/export", params={"format": "pdf"}), 422, "invalid")
    refused(api.get("/sessions/nobody/export"), 404, "session-not-found")


@pytest.mark.parametrize("options", ["", "&include_metadata=false&include_tool_calls=false"])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_what_is_exported_has_the_shape_that_the_document_says(
    api: httpx.Client, form: str, options: str
) -> None:
    made = api.post("/sessions", json={"metadata": {"a": 1}, "extension_data": {"b": 2}}).json()
    message = {"role": "user", "content": "x", "metadata": {"c": 3}}
    assert api.post(f"/sessions/{made['id']}/messages", json=[message]).status_code == 201
    turn = {"session_id": made["id"], "message": "y", "options": {"delay_ms": 0}}
    assert api.post("/chat", json=turn, headers={"Prefer": "wait=30"}).status_code == 200
    api.put(f"/sessions/{made['id']}/summary", json={"summary": "short"})
    child = api.post(f"/sessions/{made['id']}/fork", json={}).json()["id"]
    described = CONTRACT.document["paths"]["/api/v1/sessions/{session_id}/export"]["get"]
    schema = described["responses"]["200"]["content"][f"application/{form}"]["schema"]
    validator = Draft202012Validator({**schema, "components": CONTRACT.document["components"]})
    for session_id in (made["id"], child):
        text = api.get(f"/sessions/{session_id}/export?format={form}{options}").text
        document = json.loads(text) if form == "json" else yaml.safe_load(text)
        validator.validate(document)
        assert len(document["messages"]) == document["message_count"] > 1
        assert not validator.is_valid(document | {"messages": [{}]})


async def collect(gate: Gateway, session_id: str, **options: object) -> str:
    export = await gate.manager.export(ME, session_id, ExportOptions(**options))  # type: ignore[arg-type]
    return b"".join([chunk async for chunk in export.chunks]).decode()


async def test_options_leave_out_metadata_and_tool_calls(gate: Gateway) -> None:
    await talk(gate, "s", "hello", metadata={"secret": "word"})
    await say(gate, "s", *exchange("x"))
    for form in ("markdown", "json", "yaml"):
        whole = await collect(gate, "s", format=form)
        assert "result x" in whole
        less = await collect(
            gate, "s", format=form, include_tool_calls=False, include_metadata=False
        )
        assert "result x" not in less
        assert "word" not in less
        assert "hello" in less


PRIVATE = ("u-secret", "/srv/secret", "secret words", "secret tag", "secret-root", "secret-model")


def _private(api: httpx.Client) -> str:
    """Make a session that has everything which is no part of what was said; return its id."""
    create(api, "secret-root", "root")
    child = api.post("/sessions/secret-root/fork", json={"new_id": "kept-id"}).json()
    patch = {
        "title": "The title",
        "working_dir": "/srv/secret",
        "metadata": {"tag": "secret tag"},
        "extension_data": {"x": "secret words"},
        "session_type": "scheduled",
        "ttl_seconds": 86_411,
    }
    api.patch("/sessions/kept-id", json=patch)
    run_id = api.post("/sessions/kept-id/runs", json={"agent": "external"}).json()["run_id"]
    answered = {
        "role": "assistant",
        "content": "what was said",
        "model": "secret-model",
        "usage": {"prompt_tokens": 911, "completion_tokens": 1, "total_tokens": 912},
        "metadata": {"tag": "secret tag"},
    }
    events = [
        {"type": "message", "message": answered, "run_id": run_id},
        {"type": "complete", "run_id": run_id},
    ]
    assert api.post("/sessions/kept-id/events", json=events).status_code == 201
    api.put("/sessions/kept-id/summary", json={"summary": "secret words"})
    return str(child["id"])


@pytest.mark.parametrize("form", ["markdown", "json", "yaml"])
def test_without_metadata_only_id_title_times_and_what_was_said_are_written(form: str) -> None:
    with serving() as served, served.client() as api:
        session_id = _private(api)
        whole = exported(api, session_id, form)
        assert b"/srv/secret" in whole
        assert b"secret words" in whole
        less = exported(api, session_id, form, include_metadata=False).decode()
    assert "The title" in less
    assert "what was said" in less
    for word in (*PRIVATE, "scheduled", "86411", "tokens"):
        assert word not in less
    if form == "markdown":
        return
    document = json.loads(less) if form == "json" else yaml.safe_load(less)
    times = {"created_at", "updated_at", "last_activity_at"}
    assert document.keys() - {"bamboo_export", "message_count"} == {"session", "messages"}
    assert document["session"].keys() == {"id", "title"} | times
    for message in document["messages"]:
        assert message.keys() == {"id", "role", "content", "status", "created_at"}


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_document_without_metadata_is_imported_as_any_other(form: str) -> None:
    with serving() as served, served.client() as api:
        session_id = _private(api)
        less = exported(api, session_id, form, include_metadata=False)
        before = api.get(f"/sessions/{session_id}").json()
        talked = [(one["id"], one["content"]) for one in said(api, session_id)]
        api.delete(f"/sessions/{session_id}")
        made = api.post("/import", params={"id": "keep"}, content=less)
        assert made.status_code == 201, made.text
        back = made.json()
        assert (back["id"], back["title"]) == (session_id, "The title")
        assert back["created_at"] == before["created_at"]
        assert (back["user_id"], back["working_dir"], back["metadata"]) == (None, None, {})
        assert [(one["id"], one["content"]) for one in said(api, session_id)] == talked
        again = exported(api, session_id, form, include_metadata=False)
    first, second = (yaml.safe_load(each) for each in (less, again))  # JSON is YAML, too
    assert second["messages"] == first["messages"]
    assert {n: v for n, v in second["session"].items() if n not in MOVED} == {
        n: v for n, v in first["session"].items() if n not in MOVED
    }


async def test_a_summary_that_covers_a_part_covers_the_same_part_after_an_import(
    gate: Gateway,
) -> None:
    await talk(gate, "s", "a", "b", "c")
    log = await gate.log()
    second = next(e for e in log if e["type"] == "message" and e["message"]["content"] == "b")
    head = await gate.store.load("s")
    assert head is not None
    await gate.manager.save_summary(
        ME, "s", "a and b", position=Position(head.epoch, second["seq"])
    )
    document = await collect(gate, "s", format="json")
    made = (await gate.manager.import_document(ME, document.encode())).answer
    resumed = (await resumed_message(gate, made["id"]))["content"]
    assert "a and b" in resumed
    assert "[user]\nc" in resumed
    assert "[user]\nb" not in resumed


def test_our_formats_come_back_as_they_were(api: httpx.Client) -> None:
    create(api, "e-2", "one", "two", title="T", user_id="u", metadata={"a": [1, {"b": None}]})
    api.put("/sessions/e-2/summary", json={"summary": "short"})
    api.put("/sessions/e-2/todo", json={"content": "- [ ] x"})
    api.post("/sessions/e-2/fork", json={"new_id": "e-2-child"})
    for source in ("e-2", "e-2-child"):
        first = json.loads(exported(api, source))
        for form in ("json", "yaml"):
            made = api.post("/import", content=exported(api, source, form))
            assert made.status_code == 201, made.text
            assert made.json()["id"] != source
            assert made.json()["notes"] == []
            again = json.loads(exported(api, made.json()["id"]))
            again["session"]["id"] = source
            if again["summary"]:
                again["summary"]["session_id"] = source
            assert constant(again) == constant(first)
            assert said(api, made.json()["id"]) == said(api, source)


def test_an_import_keeps_the_id_where_it_is_free(api: httpx.Client) -> None:
    create(api, "e-3", "one")
    document = exported(api, "e-3")
    refused(api.post("/import?id=keep", content=document), 409, "session-exists")
    api.delete("/sessions/e-3")
    made = api.post("/import?id=keep", content=document)
    assert made.json()["id"] == "e-3"
    assert made.headers["location"] == "/api/v1/sessions/e-3"
    assert constant(json.loads(exported(api, "e-3"))) == constant(json.loads(document))


def test_a_repeated_import_is_one(api: httpx.Client) -> None:
    create(api, "e-4", "one")
    document = exported(api, "e-4")
    keyed = {"Idempotency-Key": "import-once"}
    first = api.post("/import", content=document, headers=keyed)
    again = api.post("/import", content=document, headers=keyed)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


FOREIGN = {
    "claude_code.jsonl": "claude-code",
    "codex.jsonl": "codex",
    "codex_old.jsonl": "codex",
    "goose.json": "goose",
    "goose.jsonl": "goose",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_conversations_of_other_programs_are_imported(api: httpx.Client, name: str) -> None:
    data = (SAMPLES / name).read_bytes()
    detected = api.post("/import", content=data)
    assert detected.status_code == 201, detected.text
    named = api.post("/import", params={"format": FOREIGN[name]}, content=data)
    assert named.status_code == 201
    messages = said(api, detected.json()["id"])
    assert messages
    assert all(note["place"] and note["what"] for note in detected.json()["notes"])
    # What was imported can be exported and imported like everything else.
    round_trip = api.post("/import", content=exported(api, detected.json()["id"]))
    assert said(api, round_trip.json()["id"]) == messages


def test_one_of_several_conversations_is_named(api: httpx.Client) -> None:
    data = (SAMPLES / "chatgpt.json").read_bytes()
    conversations = len(json.loads(data))
    answer = api.post("/import", content=data)
    if conversations == 1:
        assert answer.status_code == 201
        return
    refused(answer, 422, "several-conversations")
    assert api.post("/import", params={"conversation": 1}, content=data).status_code == 201
    refused(api.post("/import", params={"conversation": 999}, content=data), 422, "invalid")


def broken(**changed: object) -> bytes:
    message = {
        "id": "msg_1",
        "role": "user",
        "content": "x",
        "status": "complete",
        "created_at": "2026-01-01T00:00:00.000Z",
        "metadata": {},
    }
    document = {
        "bamboo_export": 1,
        "session": {"created_at": "2026-01-01T00:00:00.000Z"},
        "messages": [message],
        **changed,
    }
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[1,2]",
        b'{"bamboo_export":2}',
        b"bamboo_export: &a [*a]\n",
        b"bamboo_export: !!python/object/apply:os.system [id]\n",
        broken(messages=[{"role": "user"}]),
        broken(lineage={"ancestors": [1]}),
        broken(lineage={"ancestors": [{"session_id": "../x"}]}),
        broken(lineage={"ancestors": [{"session_id": "a"}] * 300}),
        broken(lineage={"merged_from": "x"}),
        broken(summary={"summary": 5}),
        broken(summary={"summary": "x", "turn_count": "many"}),
        broken(summary={"summary": "x", "created_at": "today"}),
        broken(session={"created_at": "2026-01-01T00:00:00Z", "parent": {"session_id": 5}}),
        broken(session={"created_at": "2026-01-01T00:00:00Z", "usage": {"total_tokens": "x"}}),
        broken(session={"created_at": "2026-01-01T00:00:00Z", "id": "../x"}),
    ],
)
def test_a_broken_document_is_refused_and_leaves_nothing(
    api: httpx.Client, document: bytes
) -> None:
    before = api.get("/sessions").json()["total"]
    answer = api.post("/import?id=new", content=document)
    assert answer.status_code in {400, 422}, answer.text
    assert api.get("/sessions").json()["total"] == before


def test_files_are_written_below_export_dir_and_nowhere_else(tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "link").symlink_to(outside)
    (out / "file-link.md").symlink_to(outside / "victim.md")
    (outside / "victim.md").write_text("mine", encoding="utf-8")
    with serving(export_dir=out) as served, served.client() as api:
        create(api, "s", "hello")
        path = "/sessions/s/export"
        done = api.post(path, json={"path": "reports/2026/a.md"})
        assert done.json() == {
            "path": "reports/2026/a.md",
            "bytes": (out / "reports/2026/a.md").stat().st_size,
        }
        attacks = ["../a.md", "/etc/x", "a/../../b", "a//b", "~/x", ".hidden", "a\x00b", "a\nb", "",
                   "a/", "..", "a\\..\\b", "x" * 300, "/".join("abcdefghijk")]  # fmt: skip
        for attack in attacks:
            answer = api.post(path, json={"path": attack})
            assert answer.status_code == 422, attack
        refused(api.post(path, json={"path": "link/a.md"}), 422, "invalid-path")
        refused(api.post(path, json={"path": "reports"}), 422, "invalid-path")
        refused(api.post(path, json={"path": "reports/2026/a.md/b"}), 422, "invalid-path")
        assert api.post(path, json={"path": "file-link.md"}).status_code == 200
        assert not (out / "file-link.md").is_symlink()
        assert sorted(file.name for file in outside.iterdir()) == ["victim.md"]
        assert (outside / "victim.md").read_text(encoding="utf-8") == "mine"
        assert not list(out.rglob("*.part"))


def test_without_export_dir_files_are_refused() -> None:
    with serving() as served, served.client() as api:
        create(api, "s")
        refused(api.post("/sessions/s/export", json={"path": "a.md"}), 422, "no-export-dir")


async def test_an_export_that_fails_leaves_the_file_that_was_there(
    gate: Gateway, tmp_path: Path
) -> None:
    await talk(gate, "s", "hello")
    life = gate.manager
    await life.export_to_file(ME, "s", ExportOptions("json"), "a.json")
    before = (tmp_path / "out" / "a.json").read_bytes()
    gate.store.fail("find", StorageFailed("The disk is broken."))
    with pytest.raises(BambooError):
        await life.export_to_file(ME, "s", ExportOptions("json"), "a.json")
    assert (tmp_path / "out" / "a.json").read_bytes() == before
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.json"]


async def test_exports_to_one_file_at_once_are_each_whole(gate: Gateway, tmp_path: Path) -> None:
    await talk(gate, "s", *(f"message {number}" for number in range(700)))
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(
                    gate.manager.export_to_file, ME, "s", ExportOptions("json"), "a.json"
                )
    document = json.loads((tmp_path / "out" / "a.json").read_bytes())
    assert len(document["messages"]) == 700


def test_many_are_exported_as_a_zip_that_names_what_failed(api: httpx.Client) -> None:
    create(api, "z-1", "one", title="First")
    create(api, "z-2", "two")
    body = {"session_ids": ["z-1", "z-none", "z-2", "../x"], "format": "json"}
    answer = api.post("/export", json=body)
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert all("/" not in name and not name.startswith(".") for name in names)
        documents = [name for name in names if name.endswith(".json")]
        assert [json.loads(archive.read(n))["session"]["id"] for n in documents] == ["z-1", "z-2"]
        errors = archive.read("errors.txt").decode()
    assert "z-none" in errors
    assert "session-not-found" in errors


TEXT = st.text(max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": TEXT | st.lists(
            st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), min_size=1, max_size=2
        ),
    },
    optional={"metadata": st.dictionaries(TEXT, VALUES, max_size=3), "model": TEXT},
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    fields=st.fixed_dictionaries(
        {
            "title": st.none() | TEXT,
            "metadata": st.dictionaries(TEXT, VALUES, max_size=3),
            "extension_data": st.dictionaries(TEXT, VALUES, max_size=2),
        }
    ),
    messages=st.lists(MESSAGE, max_size=5),
    form=st.sampled_from(["json", "yaml"]),
)
def test_exporting_importing_and_exporting_is_the_identity(
    api: httpx.Client, fields: dict[str, Any], messages: list[Any], form: str
) -> None:
    made = api.post("/sessions", content=json.dumps(fields).encode(), headers=JSON)
    if made.status_code != 201:  # a title that is none
        return
    session_id = made.json()["id"]
    if messages:
        path = f"/sessions/{session_id}/messages"
        sent = api.post(path, content=json.dumps(messages).encode(), headers=JSON)
        if sent.status_code != 201:
            return
    document = exported(api, session_id, form)
    whole = json.loads(exported(api, session_id))
    assert api.delete(f"/sessions/{session_id}").status_code == 204
    back = api.post("/import?id=keep", content=document)
    assert back.status_code == 201, back.text
    assert constant(json.loads(exported(api, session_id))) == constant(whole)
    if form == "json":
        return
    assert said(api, session_id) == whole["messages"]


JSON = {"Content-Type": "application/json"}


async def test_ids_and_order_survive(gate: Gateway) -> None:
    named = await talk(gate, "s", "a", "b")
    document = (await collect(gate, "s", format="yaml")).encode()
    made = (await gate.manager.import_document(ME, document)).answer
    assert await ids(gate, made["id"]) == named

"""JSON and YAML lose nothing, and every other reader of theirs sees the same."""

import json
from typing import Any

import anyio
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.exporters.importing import read_import
from tests.exporters.documents import (
    MESSAGES,
    SESSION,
    SUMMARY,
    TRAPS,
    conversations,
    export,
    message,
    sessions,
)

NOW = 1_763_661_234_567


def read(data: bytes, name: str | None = None):
    document = read_import(data, name, now_ms=NOW)
    assert document.notes == ()
    (session,) = document.sessions
    return session


@pytest.mark.parametrize("name", ["json", "yaml"])
@given(
    session=sessions(),
    messages=conversations(),
    with_metadata=st.booleans(),
    with_tools=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_export_import_export_is_the_identity(
    name: str,
    session: dict[str, Any],
    messages: list[dict[str, Any]],
    with_metadata: bool,
    with_tools: bool,
):
    async def both() -> None:
        options = {"include_metadata": with_metadata, "include_tool_calls": with_tools}
        first = await export(name, session, messages, summary=SUMMARY, **options)
        back = read(first)
        second = await export(
            name, back.session, back.messages, summary=back.summary, lineage=back.lineage, **options
        )
        assert second == first
        if with_metadata and with_tools:
            assert back.messages == messages
            assert {n: v for n, v in session.items() if n in back.session} == back.session

    anyio.run(both)


@pytest.mark.parametrize("name", ["json", "yaml"])
async def test_an_export_holds_what_the_session_has(name: str):
    lineage = {"ancestors": ["s-0"], "merged_from": []}
    back = read(await export(name, summary=SUMMARY, lineage=lineage), name)
    assert back.messages == MESSAGES
    assert back.summary == SUMMARY
    assert back.lineage == lineage
    assert back.session == {
        name: value
        for name, value in SESSION.items()
        if name not in {"state", "expires_at", "active_run_id", "stream_after"}
    }


@pytest.mark.parametrize("loader", [yaml.SafeLoader, getattr(yaml, "CSafeLoader", None)])
@given(messages=conversations(), session=sessions())
@settings(deadline=None, max_examples=50)
def test_other_yaml_readers_see_the_same(loader: Any, messages: list[Any], session: dict[str, Any]):
    async def check() -> None:
        data = await export("yaml", session, messages)
        plain = json.loads(await export("json", session, messages))
        assert yaml.load(data, Loader=loader) == plain

    anyio.run(check)


@pytest.mark.parametrize("trap", TRAPS)
async def test_a_string_is_read_back_as_the_same_string(trap: str):
    value = message(1, "user", trap, metadata={trap: [trap, {"x": trap}]})
    assert read(await export("yaml", messages=[value])).messages == [value]


@pytest.mark.parametrize("text", ["word " * 100_000, "a line\n" * 100_000, "\u2028\0" * 100_000])
async def test_very_long_strings_come_back(text: str):
    value = message(1, "user", text, metadata={text: text})
    assert read(await export("yaml", messages=[value])).messages == [value]


async def test_yaml_shows_texts_of_several_lines_as_lines():
    data = await export("yaml", messages=[message(1, "user", "One.\n\n  Two: three\n")])
    assert b"  content: |2\n    One.\n\n      Two: three\n" in data


async def test_json_has_a_message_a_line():
    lines = (await export("json")).splitlines()
    assert [json.loads(line.rstrip(b","))["id"] for line in lines if line[:5] == b'{"id"'] == [
        "m-1", "m-2", "m-3", "m-4",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["json", "yaml"])
async def test_deep_values_come_back(name: str):
    value: Any = "x"
    for level in range(90):
        value = {f"level {level}": value} if level % 2 else [value]
    given_message = message(1, "user", "hi", metadata={"deep": value})
    assert read(await export(name, messages=[given_message])).messages == [given_message]


@pytest.mark.parametrize("name", ["json", "yaml"])
async def test_without_metadata_none_is_written(name: str):
    data = await export(name, include_metadata=False)
    assert b"colour" not in data
    assert b"score" not in data
    assert b"todo" not in data
    assert read(data).session["metadata"] == {}


@pytest.mark.parametrize("name", ["json", "yaml", "markdown"])
async def test_without_tool_calls_neither_calls_nor_results_are_written(name: str):
    silent = message(9, "assistant", "", tool_calls=[{"id": "c", "name": "n", "arguments": {}}])
    data = await export(name, messages=[*MESSAGES, silent], include_tool_calls=False)
    assert b"trains" not in data
    assert b"08:15" not in data
    assert b"Looking." in data
    if name != "markdown":
        assert [m["id"] for m in read(data).messages] == ["m-1", "m-2", "m-4"]


@pytest.mark.parametrize("name", ["json", "yaml"])
async def test_a_document_cut_anywhere_is_not_read(name: str):
    data = await export(name, summary=SUMMARY)
    # A missing newline, or in JSON also what follows the last brace, is all that may be missing.
    for end in range(len(data.rstrip()) - (len("4") if name == "yaml" else 0)):
        with pytest.raises(InvalidInput):
            read_import(data[:end], name, now_ms=NOW)


def _with(path: list[Any], value: Any) -> Any:
    document: Any = {
        "bamboo_export": 1,
        "session": {"created_at": "2026-11-20T17:25:00Z"},
        "messages": [message(1, "user", "hi"), message(2, "assistant", "ho")],
    }
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


DEEP: Any = []
for _ in range(220):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["bamboo_export"], 2),
        (["bamboo_export"], True),
        (["messages"], {}),
        (["messages"], None),
        (["message_count"], 3),
        (["session"], []),
        (["summary"], "text"),
        (["lineage"], [1]),
        (["extra"], 1),
        (["session", "id"], "../x"),
        (["session", "id"], 7),
        (["session", "title"], 7),
        (["session", "title"], "x" * 1001),
        (["session", "created_at"], "yesterday"),
        (["session", "created_at"], None),
        (["session", "session_type"], ["user"]),
        (["session", "ttl_seconds"], "60"),
        (["session", "ttl_seconds"], True),
        (["session", "parent"], "s-0"),
        (["session", "metadata"], []),
        (["session", "metadata"], {"x": "y" * 70_000}),
        (["messages", 0], "hi"),
        (["messages", 0, "id"], "a\n"),
        (["messages", 0, "id"], []),
        (["messages", 0, "role"], ["user"]),
        (["messages", 0, "role"], "robot"),
        (["messages", 0, "content"], 7),
        (["messages", 0, "content"], [{"text": "x"}]),
        (["messages", 0, "created_at"], 1763661234),
        (["messages", 0, "status"], "done"),
        (["messages", 0, "tool_calls"], [{"id": "c"}]),
        (["messages", 0, "tool_call_id"], 4),
        (["messages", 0, "usage"], 4),
        (["messages", 0, "metadata"], "x"),
        (["messages", 0, "metadata"], {"deep": DEEP}),
        (["messages", 0, "x" * 300], "x"),
    ],
    ids=str,
)
def test_a_document_with_one_error_is_refused_as_a_whole(path: list[Any], value: Any):
    with pytest.raises(InvalidInput) as caught:
        read_import(json.dumps(_with(path, value)).encode(), now_ms=NOW)
    assert len(caught.value.detail) < 300
    if path != ["bamboo_export"]:
        assert caught.value.errors[0]["loc"][0] == path[0][:60]


def test_a_document_written_by_hand_needs_little():
    data = json.dumps(_with(["summary"], None)).encode()
    assert [m["id"] for m in read(data).messages] == ["m-1", "m-2"]


def test_only_the_first_of_many_errors_are_listed():
    document = _with(["messages"], [1] * 1000)
    with pytest.raises(InvalidInput) as caught:
        read_import(json.dumps(document).encode(), now_ms=NOW)
    assert len(caught.value.errors) == 20

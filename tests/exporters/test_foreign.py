"""Foreign documents are imported: the conversation whole and valid, and notes on the rest."""

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bamboo_gateway.domain.errors import BambooError, InvalidInput
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.exporters.imported import NOTES_MAX, ImportedDocument
from bamboo_gateway.exporters.importing import IMPORT_FORMATS, read_import
from tests.exporters.conftest import SAMPLES
from tests.exporters.documents import export

NOW = 1_763_661_234_567
Sample = Callable[[str], bytes]
FILES = {
    "claude_code.jsonl": "claude-code",
    "codex.jsonl": "codex",
    "codex_old.jsonl": "codex",
    "goose.json": "goose",
    "goose.jsonl": "goose",
    "chatgpt.json": "chatgpt",
}


def read(data: bytes, name: str | None = None) -> ImportedDocument:
    return read_import(data, name, now_ms=NOW)


def lines(*records: Any) -> bytes:
    return b"\n".join(json.dumps(record).encode() for record in records)


def said(document: ImportedDocument) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in document.sessions[0].messages]


def told(document: ImportedDocument) -> dict[str, str]:
    return {note.place: note.what for note in document.notes}


def expect_sound(document: ImportedDocument) -> None:
    """Ids unique, exchanges whole, and nothing that our own format would refuse."""
    for session in document.sessions:
        ids = [message["id"] for message in session.messages]
        assert len(set(ids)) == len(ids)
        waiting: set[str] = set()
        for message in session.messages:
            assert Message.of(message).to_json() == message
            if message["role"] == "tool":
                waiting.remove(message["tool_call_id"])
            waiting |= {call["id"] for call in message.get("tool_calls", ())}
        data = anyio.run(export, "json", session.session, session.messages)
        assert read_import(data, "json", now_ms=NOW).sessions[0].messages == session.messages


@pytest.mark.parametrize(("file", "name"), FILES.items())
def test_a_format_is_detected_by_its_content(sample: Sample, file: str, name: str):
    document = read(sample(file))
    assert document.format == name
    assert document == read(sample(file), name)
    assert document == read(b"\xef\xbb\xbf" + sample(file).replace(b"\n", b"\r\n"))


@pytest.mark.parametrize(("file", "name"), FILES.items())
def test_another_format_named_is_refused(sample: Sample, file: str, name: str):
    for other in IMPORT_FORMATS:
        if other != name:
            with pytest.raises(InvalidInput):
                read(sample(file), other)


@pytest.mark.parametrize("file", FILES)
def test_every_imported_session_is_valid(sample: Sample, file: str):
    expect_sound(read(sample(file)))


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"[]", b"null", b"hello", b"a: b", b"\xff\xfe", b'{"messages": []}', b"[[1]]",
     b'{"role": "user"}\n', b"<html>", b"PK\x03\x04", b'{"type": "teleport"}\n', b"\n\n"],
)  # fmt: skip
def test_a_document_of_no_known_format_is_refused_with_what_is_accepted(data: bytes):
    with pytest.raises(InvalidInput, match=r"Claude Code.*goose"):
        read(data)


def test_only_known_formats_can_be_named():
    with pytest.raises(InvalidInput, match="claude-code"):
        read(b"{}", "word")
    assert read(lines(CLAUDE), "claude_code").format == "claude-code"


@pytest.mark.parametrize(
    "data",
    [
        lines({"id": "x", "timestamp": "2025-01-01T00:00:00Z", "instructions": None}),
        json.dumps([{"title": "t", "mapping": {}}]).encode(),
        json.dumps({"working_dir": "/", "conversation": []}).encode(),
    ],
)
def test_a_document_in_which_nothing_is_said_is_refused(data: bytes):
    with pytest.raises(InvalidInput, match="Nothing is said"):
        read(data)


CLAUDE = {
    "type": "user", "uuid": "u-1", "parentUuid": None, "sessionId": "s",
    "timestamp": "2026-01-01T00:00:00Z", "message": {"role": "user", "content": "hi"},
}  # fmt: skip


def test_claude_code_imports_the_latest_branch(sample: Sample):
    document = read(sample("claude_code.jsonl"))
    (session,) = document.sessions
    assert session.session["title"] == "Where the timetable is"
    assert session.session["working_dir"] == "/home/ann/trains"
    assert session.session["created_at"] == "2026-03-01T09:00:00.500Z"
    assert [message["id"] for message in session.messages] == [
        "u-0", "u-1", "a-1", "r-1", "r-2", "a-4", "u-3", "u-4", "a-6",
    ]  # fmt: skip
    answer = session.messages[2]
    assert answer["content"] == [{"type": "thinking", "text": "I should look at both."}]
    assert [call["id"] for call in answer["tool_calls"]] == ["toolu_1", "toolu_2"]
    assert answer["usage"] == {
        "prompt_tokens": 114, "completion_tokens": 25, "total_tokens": 139,
    }  # fmt: skip
    assert answer["model"] == "claude-opus-4-5-20251101"
    assert session.messages[4]["content"][1] == {
        "type": "image", "media_type": "image/png", "data": "iVBORw0KGgo=",
    }  # fmt: skip
    assert session.messages[5]["content"] == "Only `a.txt` does. \ufffd"
    assert "model" not in session.messages[-1]


def test_claude_code_notes_line_by_line_what_it_left_out(sample: Sample):
    notes = told(read(sample("claude_code.jsonl")))
    assert notes == {
        "line 1": "`file-history-snapshot` says nothing in the conversation",
        "line 10": "`progress` says nothing in the conversation",
        "line 12 and 1 more": "of a branch that was given up; left out",
        "line 14": "what a sub-agent said is left out",
        "line 15": "a block of type 'hologram' is not known; left out",
        "line 16": "`system` says nothing in the conversation",
        "line 19": "a result without its call ('toolu_gone'); left out",
        "line 21": "type 'teleport' is not known; left out",
        "line 22": "not a JSON object; left out",
    }


def test_a_sub_agents_own_file_is_a_session():
    document = read(lines(CLAUDE | {"isSidechain": True, "agentId": "a"}))
    assert document.sessions[0].session["session_type"] == "sub_agent"
    assert said(document) == [("user", "hi")]


def test_a_missing_parent_does_not_cut_the_conversation():
    second = CLAUDE | {"uuid": "u-2", "parentUuid": "lost", "message": {"content": "ho"}}
    document = read(lines(CLAUDE, second))
    assert said(document) == [("user", "hi"), ("user", "ho")]
    assert "parent is missing" in told(document)["line 2"]


def test_a_cycle_of_parents_ends():
    first = CLAUDE | {"parentUuid": "u-2"}
    second = CLAUDE | {"uuid": "u-2", "parentUuid": "u-1"}
    assert len(said(read(lines(first, second)))) == 2


def test_codex_imports_the_turns_that_were_not_undone(sample: Sample):
    document = read(sample("codex.jsonl"))
    (session,) = document.sessions
    assert session.session["title"] == "List the files"
    assert session.session["working_dir"] == "/home/ann/trains"
    assert [message["role"] for message in session.messages] == [
        "system", "user", "user", "assistant", "tool", "assistant", "tool", "assistant", "tool",
        "assistant", "user",
    ]  # fmt: skip
    answer = session.messages[3]
    assert answer["content"] == [
        {"type": "thinking", "text": "**Listing files**"},
        {"type": "text", "text": "I will look."},
    ]
    assert answer["tool_calls"] == [
        {
            "id": "call_1",
            "name": "shell",
            "arguments": {"command": ["bash", "-lc", "ls"], "workdir": "/home/ann/trains"},
        }
    ]
    assert answer["usage"]["total_tokens"] == 940
    assert answer["model"] == "gpt-5-codex"
    assert session.messages[-1]["content"] == "Thanks"
    assert list(told(document)) == [
        "line 13", "line 17", "line 19", "line 22", "line 24", "line 25",
    ]  # fmt: skip


def test_older_codex_rollouts_are_read(sample: Sample):
    document = read(sample("codex_old.jsonl"))
    assert said(document) == [
        ("user", "Hello"), ("assistant", ""), ("tool", "a.txt"), ("assistant", "Hi."),
    ]  # fmt: skip
    assert document.notes == ()


def test_chatgpt_gives_each_conversation_as_the_site_shows_it(sample: Sample):
    document = read(sample("chatgpt.json"))
    first, second = document.sessions
    assert first.session["title"] == "Train times"
    assert first.session["created_at"] == "2026-02-02T02:40:00.123Z"
    assert [message["id"] for message in first.messages] == [
        "q1", "t1", "c1", "r1", "c2", "r2", "a1",
    ]  # fmt: skip
    assert first.messages[2]["tool_calls"][0]["arguments"] == {"input": "print(8 * 60 + 15)"}
    assert first.messages[5]["content"] == "08:15 Bern\n09:15 Basel"
    assert first.messages[6]["status"] == "incomplete"
    assert second.session["title"] == "Say hello in French"
    assert [message["content"] for message in second.messages][-1] == "Bonjour"
    assert "conversation 2" in told(document)


def test_audio_and_images_of_chatgpt_become_transcripts_and_file_names():
    pieces = [
        {"content_type": "audio_transcription", "text": "Hello"},
        {
            "content_type": "real_time_user_audio_video_asset_pointer",
            "audio_asset_pointer": {
                "content_type": "audio_asset_pointer", "asset_pointer": "sediment://file_1",
            },
        },
        {"content_type": "scent"},
    ]  # fmt: skip
    content = {"content_type": "multimodal_text", "parts": pieces}
    message = {"author": {"role": "user"}, "content": content}
    node = {"id": "n", "parent": None, "message": message}
    document = read(json.dumps({"mapping": {"n": node}, "current_node": "n"}).encode())
    assert said(document) == [
        ("user", [
            {"type": "text", "text": "Hello"},
            {"type": "file", "url": "sediment://file_1", "media_type": "audio/*"},
        ]),
    ]  # fmt: skip
    assert any("'scent' is not known" in note.what for note in document.notes)


def test_a_single_conversation_of_chatgpt_is_imported(sample: Sample):
    alone = json.dumps(json.loads(sample("chatgpt.json"))[2]).encode()
    assert read(alone).sessions[0].session["title"] == "Say hello in French"


def test_goose_gives_calls_and_results_as_messages_of_their_own(sample: Sample):
    document = read(sample("goose.json"))
    (session,) = document.sessions
    assert session.session["id"] == "20261001_3"
    assert session.session["session_type"] == "scheduled"
    assert [message["role"] for message in session.messages] == [
        "user", "assistant", "tool", "tool", "assistant",
    ]  # fmt: skip
    assert session.messages[0]["metadata"] == {"goose": {"id": "m 1"}}
    assert session.messages[2]["content"] == "08:15\n09:15"
    assert session.messages[3]["metadata"] == {"goose": {"is_error": True}}


def test_resources_of_goose_are_kept_as_files_or_words():
    resources = [
        {"uri": "a", "blob": "aGk=", "mimeType": "audio/wav"}, {"uri": "file:///b"},
    ]  # fmt: skip
    content = [{"type": "resource", "resource": resource} for resource in resources]
    document = read(lines({"role": "user", "created": 1740171560, "content": content}))
    assert said(document) == [
        ("user", [
            {"type": "file", "data": "aGk=", "media_type": "audio/wav"},
            {"type": "text", "text": '{"uri":"file:///b"}'},
        ]),
    ]  # fmt: skip


def test_older_goose_sessions_are_read(sample: Sample):
    document = read(sample("goose.jsonl"))
    assert document.sessions[0].session["title"] == "Train times"
    assert said(document)[-1] == ("tool", "08:15\n09:15")
    assert document.notes == ()


@pytest.mark.parametrize("file", FILES)
def test_reading_again_gives_the_same_ids(sample: Sample, file: str):
    assert read(sample(file)) == read(sample(file))


def test_notes_are_bounded():
    document = read(lines(CLAUDE, *[{"type": f"kind {n}"} for n in range(1000)]))
    assert len(document.notes) == NOTES_MAX + 1
    assert "800 more" in document.notes[-1].what


def test_a_note_quotes_no_large_input():
    document = read(lines(CLAUDE, {"type": "x" * 100_000}))
    assert all(len(note.what) <= 200 for note in document.notes)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "x", "../x", "a" * 300, "tool", "user", "2026-13-40", "text", "call_1"]),
    st.just([]), st.just({}), st.just([[]]), st.just([{}]), st.just({"type": "text"}),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    return [path, *(place for key, inner in items for place in _places(inner, (*path, key)))]


@pytest.mark.parametrize("file", FILES)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_no_content_makes_a_reader_fail(file: str, data: st.DataObject):
    raw = (SAMPLES / file).read_bytes()
    is_lines = file.endswith(".jsonl")
    good = [line for line in raw.splitlines() if line.endswith(b"}")] if is_lines else [raw]
    document = [json.loads(line) for line in good]
    for _ in range(data.draw(st.integers(1, 6))):
        places = [place for place in _places(document) if place]
        *path, last = data.draw(st.sampled_from(places))
        holder: Any = document
        for step in path:
            holder = holder[step]
        match data.draw(st.sampled_from(["replace", "drop", "double"])):
            case "drop":
                del holder[last]
            case "double" if isinstance(holder, list):
                holder.append(deepcopy(holder[last]))
            case _:
                holder[last] = deepcopy(data.draw(JUNK))
        if not document:
            return
    text = lines(*document) if is_lines else json.dumps(document[0]).encode()
    try:
        found = read(text, data.draw(st.sampled_from([None, FILES[file]])))
    except BambooError:
        return
    expect_sound(found)


def test_deeply_nested_arguments_are_left_out():
    deep: Any = []
    for _ in range(230):
        deep = [deep]
    call = {"type": "tool_use", "id": "c", "name": "n", "input": {"deep": deep}}
    answer = {
        "type": "assistant", "uuid": "a", "parentUuid": "u-1",
        "message": {"id": "m", "content": [call]},
    }  # fmt: skip
    document = read(lines(CLAUDE, answer))
    assert document.sessions[0].messages[1]["tool_calls"][0]["arguments"] == {}
    assert "nest" in told(document)["line 2"]

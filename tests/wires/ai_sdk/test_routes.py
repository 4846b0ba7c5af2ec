"""The routes of the wire over HTTP: what a request means, and which requests mean nothing."""

import base64
import threading
from collections.abc import Iterator
from typing import Any
from zlib import crc32

import httpx
import pytest

from bamboo_gateway.sessions import turns
from bamboo_gateway.wires.ai_sdk import folding, routes
from tests.api.serving import SECONDS, Served, refused, serving
from tests.support.waiting import until
from tests.wires.ai_sdk.client import AGENT, V5, V6, V7
from tests.wires.ai_sdk.reader import Reader, chunks

HEADER = "x-vercel-ai-ui-message-stream"
VERSIONS = {5: V5, 6: V6, 7: V7}
DEMO = {"default": "demo:?delay_ms=0"}
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 20).decode()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    agents = {**DEMO, **AGENT, "default": DEMO["default"], "script": AGENT["default"]}
    allowing = {"allowing": "openai:m?base_url=http://127.0.0.1:9/v1&allow=system"}
    with serving(agents={**agents, **allowing}, access_log=False) as served:
        yield served


@pytest.fixture
def api(gateway: Served) -> Iterator[httpx.Client]:
    with gateway.client() as client:
        yield client


@pytest.fixture
def chat_id(request: pytest.FixtureRequest) -> str:
    return f"chat-{crc32(request.node.name.encode()):x}"


def said(text: str, name: str = "u-1", **more: Any) -> dict[str, Any]:
    return {"id": name, "role": "user", "parts": [{"type": "text", "text": text}], **more}


def path(version: int = 5) -> str:
    return VERSIONS[version].removeprefix("/api/v1")


def submit(
    api: httpx.Client, chat_id: str, *messages: dict[str, Any], version: int = 5, **more: Any
) -> httpx.Response:
    return api.post(path(version), json={"id": chat_id, "messages": list(messages), **more})


def loaded(api: httpx.Client, chat_id: str, version: int = 5) -> list[dict[str, Any]]:
    answer = api.get(f"{path(version)}/{chat_id}/messages")
    assert answer.status_code == 200, answer.text
    shown: list[dict[str, Any]] = answer.json()
    return shown


def runs_of(api: httpx.Client, chat_id: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = api.get(f"/sessions/{chat_id}/runs").json()["runs"]
    return runs


def held(api: httpx.Client, chat_id: str) -> threading.Thread:
    """Begin a run that says half of its answer and waits until it is cancelled."""
    body = {"id": chat_id, "messages": [said("hi")], "options": {"hold": "middle"}}
    thread = threading.Thread(target=lambda: api.post(path(7), json=body), name="submit")
    thread.start()

    def has_text() -> bool:
        events = api.get(f"/sessions/{chat_id}/events?type=token").json()
        return bool(events.get("events"))

    until(has_text, "the run says something")
    return thread


@pytest.mark.parametrize("version", VERSIONS)
def test_a_submit_streams_its_run_under_the_protocols_headers(
    api: httpx.Client, chat_id: str, version: int
) -> None:
    answer = submit(api, chat_id, said("hi"), version=version)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "v1"
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["session-id"] == chat_id
    [run] = runs_of(api, chat_id)
    assert answer.headers["run-id"] == run["run_id"]
    reader = Reader(version).read(answer.text)
    assert (reader.is_done, reader.ended_with) == (True, "finish")
    assert reader.message == loaded(api, chat_id, version)[-1]
    assert loaded(api, chat_id, version)[0] == said("hi")


def test_a_submit_that_comes_again_is_one_run(api: httpx.Client, chat_id: str) -> None:
    """For this protocol's clients, which repeat requests without a key."""
    first = submit(api, chat_id, said("hi"))
    again = submit(api, chat_id, said("hi"))
    alone = api.post(path(), json={"id": chat_id, "message": said("hi")})
    same_id = submit(api, chat_id, said("hi"), messageId="u-1")
    assert len(runs_of(api, chat_id)) == 1
    message = Reader(5).read(first.text).message
    for other in (again, alone, same_id):
        assert other.headers["run-id"] == first.headers["run-id"]
        assert Reader(5).read(other.text).message == message
    assert len(loaded(api, chat_id)) == 2


def test_two_tabs_that_send_the_same_message_at_once_share_its_run(
    gateway: Served, chat_id: str
) -> None:
    answers: list[httpx.Response] = []

    def tab() -> None:
        with gateway.client() as client:
            answers.append(submit(client, chat_id, said("hi")))

    tabs = [threading.Thread(target=tab) for _ in range(6)]
    for one in tabs:
        one.start()
    for one in tabs:
        one.join(SECONDS)
    assert [one.status_code for one in answers] == [200] * 6
    assert len({one.headers["run-id"] for one in answers}) == 1
    messages = [Reader(5).read(one.text).message for one in answers]
    assert all(one == messages[0] for one in messages)
    with gateway.client() as api:
        assert len(runs_of(api, chat_id)) == 1


def test_while_a_run_is_active_its_answer_is_in_the_stream_and_not_in_the_messages(
    gateway: Served, api: httpx.Client, chat_id: str
) -> None:
    thread = held(api, chat_id)
    assert loaded(api, chat_id, 7) == [said("hi")]
    with gateway.client() as reading:
        for version in (7, 5, 7):
            with reading.stream("GET", f"{path(version)}/{chat_id}/stream") as answer:
                assert answer.headers[HEADER] == "v1"
                first = next(answer.iter_text())
                assert chunks(first)[0]["type"] == "start"
    with gateway.client() as reading, reading.stream("GET", f"{path(7)}/{chat_id}/stream") as live:
        stopped = api.post(f"{path(7)}/{chat_id}/stop", json={"activeStreamId": "x"})
        assert [one["status"] for one in stopped.json()["runs"]] == ["cancelled"]
        reader = Reader(7).read(live.read().decode())
    assert reader.ended_with == "abort"
    thread.join(SECONDS)
    assert loaded(api, chat_id, 7)[-1] == reader.message
    assert api.post(f"{path(7)}/{chat_id}/stop").json()["runs"] == []
    assert api.get(f"{path(7)}/{chat_id}/stream").status_code == 204


def test_an_answer_that_has_ended_since_the_page_was_loaded_is_streamed_by_its_position(
    api: httpx.Client, chat_id: str
) -> None:
    thread = held(api, chat_id)
    answer = api.get(f"{path()}/{chat_id}/messages")
    position = answer.headers["stream-after"]
    api.post(f"{path()}/{chat_id}/stop")
    thread.join(SECONDS)
    missed = api.get(f"{path()}/{chat_id}/stream", params={"after": position})
    assert Reader(5).read(missed.text).message == loaded(api, chat_id)[-1]
    present = api.get(f"{path()}/{chat_id}/messages").headers["stream-after"]
    assert api.get(f"{path()}/{chat_id}/stream?after={present}").status_code == 204
    assert api.get(f"{path()}/{chat_id}/stream?after=1-5").status_code == 204
    submit(api, chat_id, said("two", "u-2"))
    missed = api.get(f"{path()}/{chat_id}/stream", params={"after": position})
    assert Reader(5).read(missed.text).message == loaded(api, chat_id)[1]
    refused(api.get(f"{path()}/{chat_id}/stream?after=x"), 422, "invalid-position")


def test_a_chat_that_has_no_message_yet_is_quiet(api: httpx.Client, chat_id: str) -> None:
    assert api.get(f"{path()}/{chat_id}/stream").status_code == 204
    refused(api.get(f"{path()}/{chat_id}/messages"), 404, "session-not-found")
    refused(api.post(f"{path()}/{chat_id}/stop"), 404, "session-not-found")


def test_an_edit_keeps_its_id_and_comes_again_as_one(api: httpx.Client, chat_id: str) -> None:
    submit(api, chat_id, said("one"))
    edits = [submit(api, chat_id, said("two"), messageId="u-1") for _ in range(3)]
    assert len({one.headers["run-id"] for one in edits}) == 1
    submit(api, chat_id, said("three"), messageId="u-1")
    messages = loaded(api, chat_id)
    assert messages[0]["id"] == "u-1"
    assert messages[0]["parts"] == [{"type": "text", "text": "three"}]
    assert "metadata" not in messages[0]
    assert len(api.get(f"/sessions/{chat_id}/branches").json()["branches"]) == 3
    submit(api, chat_id, said("four", "u-2"))
    older = api.get(f"{path()}/{chat_id}/messages", params={"before": "u-2", "limit": 1})
    assert older.json() == messages
    assert older.headers["has-more"] == "false"
    newest = api.get(f"{path()}/{chat_id}/messages?limit=1")
    assert (newest.headers["has-more"], newest.json()[0]["id"]) == ("true", "u-2")
    refused(submit(api, chat_id, said("x", "no"), messageId="no"), 404, "message-not-found")


def test_another_answer_is_a_branch_whatever_id_names_it(api: httpx.Client, chat_id: str) -> None:
    submit(api, chat_id, said("hi"))
    for name in (None, "u-1", loaded(api, chat_id)[-1]["id"]):
        more: dict[str, Any] = {"messageId": name} if name is not None else {}
        answer = submit(api, chat_id, said("hi"), trigger="regenerate-message", **more)
        assert Reader(5).read(answer.text).message == loaded(api, chat_id)[-1]
    assert len(loaded(api, chat_id)) == 2
    assert len(runs_of(api, chat_id)) == 4
    gone = submit(api, chat_id, said("hi"), trigger="regenerate-message", messageId="msg_no")
    refused(gone, 404, "message-not-found")


def test_the_id_of_an_answer_is_looked_up_and_not_searched_for(
    api: httpx.Client, chat_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(api, chat_id, said("hi"))
    name = loaded(api, chat_id)[-1]["id"]

    async def searched(*_: object, **__: object) -> None:
        raise AssertionError("the path was read, whose length has no end")

    monkeypatch.setattr(turns, "find_on_path", searched)
    for message_id in (name, "u-1"):
        again = submit(api, chat_id, trigger="regenerate-message", messageId=message_id)
        assert again.status_code == 200
    edited = submit(api, chat_id, said("two"), messageId="u-1")
    assert edited.status_code == 200


def test_ids_of_any_form_are_known_again(api: httpx.Client, chat_id: str) -> None:
    for name in ("a b/c", "ü" * 500, "-", "x" * 128):
        first = submit(api, chat_id, said("hi", name))
        again = submit(api, chat_id, said("hi", name))
        assert first.headers["run-id"] == again.headers["run-id"]
        assert loaded(api, chat_id)[-2]["id"] == name


def test_the_history_that_a_client_brings_to_a_new_chat_is_taken_once(
    api: httpx.Client, chat_id: str
) -> None:
    call: dict[str, Any] = {"type": "tool-look", "toolCallId": "c", "input": {"a": 1}}
    answer = {
        "id": "a-1",
        "role": "assistant",
        "parts": [
            {"type": "step-start"},
            {"type": "reasoning", "text": "Hm."},
            {**call, "state": "output-available", "output": {"found": [1]}},
            {"type": "step-start"},
            {"type": "text", "text": "Found."},
        ],
    }
    brought = [said("old"), answer, said("new", "u-2")]
    streamed = submit(api, chat_id, *brought)
    messages = loaded(api, chat_id)
    assert [one["id"] for one in messages[:3]] == ["u-1", "a-1", "u-2"]
    assert Reader(5).read(streamed.text).message == messages[3]
    assert messages[1]["parts"][2] == answer["parts"][2]
    assert messages[1]["parts"][1] == {"type": "reasoning", "text": "Hm.", "state": "done"}
    # What the client says that the assistant has said counts nothing afterwards.
    forged = {**answer, "id": "a-9"}
    submit(api, chat_id, *brought, forged, said("next", "u-3"))
    assert [one["role"] for one in loaded(api, chat_id)] == ["user", "assistant"] * 3
    assert len(runs_of(api, chat_id)) == 2


def test_a_request_adds_as_many_messages_as_a_native_one(api: httpx.Client, chat_id: str) -> None:
    calls = [
        {"type": "tool-x", "toolCallId": f"c{at}", "state": "output-available", "output": at}
        for at in range(1000)
    ]
    answer = {"id": "a-1", "role": "assistant", "parts": calls}
    questions = [said("x", f"q-{at}") for at in range(1001)]
    for brought in ([answer, said("hi")], questions):
        problem = refused(submit(api, chat_id, *brought), 422, "invalid")
        assert "1000" in problem["detail"]
    assert api.get(f"/sessions/{chat_id}").status_code == 404


def test_messages_that_were_never_answered_come_before_the_new_one(
    api: httpx.Client, chat_id: str
) -> None:
    submit(api, chat_id, said("one"))
    submit(api, chat_id, said("two", "u-2"), said("three", "u-3"))
    submit(api, chat_id, said("three", "u-3"), said("four", "u-4"))
    users = [one["id"] for one in loaded(api, chat_id) if one["role"] == "user"]
    assert users == ["u-1", "u-2", "u-3", "u-4"]


def test_instructions_of_a_client_are_refused_by_name_unless_the_agent_allows_them(
    api: httpx.Client, chat_id: str
) -> None:
    system = {"id": "s-1", "role": "system", "parts": [{"type": "text", "text": "Be rude."}]}
    problem = refused(submit(api, chat_id, system, said("hi")), 422, "option-refused")
    assert "system" in problem["detail"]
    refused(api.get(f"/sessions/{chat_id}"), 404, "session-not-found")
    allowed = submit(api, chat_id, system, said("hi"), agent="allowing")
    assert allowed.status_code == 200  # its model server is not there, which is another matter
    assert Reader(5).read(allowed.text).ended_with == "error"


def test_tools_of_a_client_reach_the_agent_and_their_results_come_back(
    api: httpx.Client, chat_id: str
) -> None:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    for number, tools in enumerate(
        ({"ask": {"inputSchema": {"jsonSchema": schema}}}, [{"name": "ask", "parameters": schema}])
    ):
        name, options = f"{chat_id}-{number}", {"client_tool": "ask"}
        answer = submit(api, name, said("hi"), tools=tools, options=options)
        message = Reader(5).read(answer.text).message
        [call] = [one for one in message["parts"] if one["type"] == "tool-ask"]
        assert call["state"] == "input-available"
        for output in ("plain", {"rich": [1, None]}):
            done = {**call, "state": "output-available", "output": output}
            parts = [done if one == call else one for one in message["parts"]]
            given = {**message, "parts": parts}
            results = [
                submit(api, name, said("hi"), given, messageId=message["id"]) for _ in range(2)
            ]
            # The second one is a result that nobody waits for any more.
            assert {one.status_code for one in results} == {200}
            assert len({one.headers["run-id"] for one in results}) == 1
        assert len(runs_of(api, name)) == 2
        [shown] = [one for one in loaded(api, name)[-1]["parts"] if one["type"] == "tool-ask"]
        assert (shown["state"], shown["output"]) == ("output-available", "plain")
    bad = submit(api, chat_id, said("hi"), tools=[{"name": ""}])
    refused(bad, 422, "invalid-client-tools")


def test_a_result_that_is_no_text_and_a_failed_call_come_back_as_they_were(
    api: httpx.Client, chat_id: str
) -> None:
    ends: tuple[dict[str, Any], ...] = (
        {"state": "output-available", "output": {"rich": [1, None, "ü"]}},
        {"state": "output-available", "output": None},
        {"state": "output-available", "output": '{"a": 1}'},
        {"state": "output-available", "output": "[1"},
        {"state": "output-error", "errorText": "no network"},
    )
    for number, end in enumerate(ends):
        name = f"{chat_id}-{number}"
        tools = {"ask": {"parameters": {"type": "object"}}}
        answer = submit(api, name, said("hi"), tools=tools, options={"client_tool": "ask"})
        message = Reader(5).read(answer.text).message
        parts = [{**one, **end} if one["type"] == "tool-ask" else one for one in message["parts"]]
        submit(api, name, {**message, "parts": parts}, messageId=message["id"])
        [shown] = [one for one in loaded(api, name)[-1]["parts"] if one["type"] == "tool-ask"]
        assert {key: shown.get(key) for key in end} == end


def test_version_5_is_told_of_an_approval_and_resumes_after_the_native_answer(
    api: httpx.Client, chat_id: str
) -> None:
    answer = submit(api, chat_id, said("approval"), agent="script")
    reader = Reader(5).read(answer.text)
    [asked] = [one for one in reader.message["parts"] if one["type"] == "data-input-required"]
    given = {"answers": {asked["data"]["request_id"]: {"approved": True}}}
    position = api.get(f"{path()}/{chat_id}/messages").headers["stream-after"]
    run = api.post(f"/sessions/{chat_id}/inputs", json=given).json()
    until(
        lambda: api.get(f"/sessions/{chat_id}/runs/{run['run_id']}").json()["ended_at"],
        "the run ends",
    )
    assert loaded(api, chat_id)[-1]["parts"][-1]["text"] == "Removed."
    assert position


def test_files_go_both_ways(api: httpx.Client, chat_id: str) -> None:
    content = base64.b64decode(PIXEL)
    file = api.post("/files?name=a.png", content=content, headers={"Content-Type": "image/png"})
    parts = [
        {"type": "file", "mediaType": "image/png", "url": f"data:image/png;base64,{PIXEL}"},
        {"type": "file", "mediaType": "image/png", "filename": "a.png", "url": file.json()["url"]},
        {"type": "file", "mediaType": "text/plain", "url": "https://e.test/a.txt"},
        {"type": "text", "text": "Look."},
    ]
    said_parts = {"id": "u-1", "role": "user", "parts": parts, "metadata": {"from": "page"}}
    assert submit(api, chat_id, said_parts).status_code == 200
    native = api.get(f"/sessions/{chat_id}/messages").json()["messages"][0]["content"]
    assert [one["type"] for one in native] == ["image", "image", "file", "text"]
    assert native[1]["file_id"] == file.json()["file_id"]
    assert loaded(api, chat_id)[0] == said_parts
    unknown = {"type": "file", "mediaType": "image/png", "url": "/api/v1/files/file_none"}
    other = {"id": "u-2", "role": "user", "parts": [unknown]}
    refused(submit(api, chat_id, other), 422, "unknown-file")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid"),
        ({"id": "x"}, "invalid"),
        ({"id": "../x", "messages": []}, "invalid"),
        ({"id": "x", "messages": []}, "invalid"),
        ({"id": "x", "messages": [{"id": "u", "role": "robot", "parts": []}]}, "invalid"),
        ({"id": "x", "messages": [{"id": "u", "role": "user", "parts": []}]}, "invalid"),
        ({"id": "x", "messages": [{"id": "u", "role": "user", "parts": [{"type": "text"}]}]},
         "invalid"),
        ({"id": "x", "messages": [said("x", metadata=1)]}, "invalid"),
        ({"id": "x", "messages": [said("x")], "trigger": "other"}, "invalid"),
        ({"id": "x", "messages": [said("x", role="assistant")]}, "session-not-found"),
        ({"id": "x", "message": said("x"), "agent": "nobody"}, "unknown-agent"),
        ({"id": "x", "messages": [{"id": "u", "role": "user",
          "parts": [{"type": "file", "url": 1, "mediaType": "image/png"}]}]}, "invalid"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_a_problem_that_says_so(
    api: httpx.Client, body: dict[str, Any], code: str
) -> None:
    answer = api.post(path(), json=body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] in {code, "invalid-id"}
    assert problem["detail"]
    refused(api.get("/sessions/x"), 404, "session-not-found")


def test_members_that_the_gateway_does_not_know_say_nothing(
    api: httpx.Client, chat_id: str
) -> None:
    message = said("hi", createdAt="2026", annotations=[1])
    message["parts"].append({"type": "data-mine", "data": {"x": 1}})
    assert submit(api, chat_id, message, model="x", webSearch=True).status_code == 200


def test_results_that_nobody_waits_for_are_refused(api: httpx.Client, chat_id: str) -> None:
    submit(api, chat_id, said("hi"))
    message = loaded(api, chat_id)[-1]
    answer = submit(api, chat_id, said("hi"), message, messageId=message["id"])
    refused(answer, 422, "nothing-to-answer")
    assert len(runs_of(api, chat_id)) == 1


def test_a_chat_of_the_native_api_goes_on_here_and_the_other_way_round(
    api: httpx.Client, chat_id: str
) -> None:
    wait = {"Prefer": "wait=60"}
    native = {
        "session_id": chat_id,
        "message": "hi",
        "options": {"tokens": 3, "tool": False, "thinking": False},
    }
    assert api.post("/chat", json=native, headers=wait).status_code == 200
    first = loaded(api, chat_id)
    assert [one["role"] for one in first] == ["user", "assistant"]
    submit(api, chat_id, *first, said("more", "u-2"))
    answered = api.post("/chat", json={**native, "message": "end"}, headers=wait).json()
    assert loaded(api, chat_id)[-1]["id"] == answered["message"]["id"]
    assert len(loaded(api, chat_id)) == 6


def test_readers_of_one_run_share_its_frames_and_nothing_is_kept_after_them(
    gateway: Served, api: httpx.Client, chat_id: str
) -> None:
    def memos() -> list[Any]:
        return [memo for key, memo in list(routes._MEMOS._memos.items()) if chat_id in repr(key)]

    thread = held(api, chat_id)
    with gateway.client() as reading:
        streams = [reading.stream("GET", f"{path(7)}/{chat_id}/stream") for _ in range(4)]
        opened = [one.__enter__() for one in streams]
        try:
            # An iterator that nobody keeps closes its connection.
            texts = [one.iter_text() for one in opened]
            assert all(next(text).startswith("data: ") for text in texts)
            # The submit that has created the session began before its first event.
            assert sorted(memo.readers for memo in memos()) == [1, 4]
        finally:
            api.post(f"{path(7)}/{chat_id}/stop")
            for one in streams:
                one.__exit__(None, None, None)
    thread.join(SECONDS)
    until(lambda: not memos(), "all streams are closed")


def test_a_message_that_waits_for_another_run_gets_its_own_answer_alone(
    gateway: Served, api: httpx.Client, chat_id: str
) -> None:
    answers: dict[str, httpx.Response] = {}

    def tab(name: str, text: str, **more: Any) -> None:
        with gateway.client() as client:
            answers[name] = submit(client, chat_id, said(text, name), version=7, **more)

    first = threading.Thread(target=tab, args=("u-1", "steps"), kwargs={"agent": "script"})
    first.start()
    until(lambda: api.get(f"/sessions/{chat_id}").status_code == 200, "the first run has begun")
    others = [threading.Thread(target=tab, args=(f"u-{n}", f"text {n}")) for n in (2, 3)]
    for one in others:
        one.start()
    for one in (first, *others):
        one.join(SECONDS)
    messages = loaded(api, chat_id, 7)
    assert [one["role"] for one in messages] == ["user", "assistant"] * 3
    for asked, answer in zip(messages[::2], messages[1::2], strict=True):
        reader = Reader(7).read(answers[asked["id"]].text)
        assert (reader.message, reader.ended_with) == (answer, "finish")


def test_a_turn_that_is_too_large_is_refused_and_not_cut(
    api: httpx.Client, chat_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(api, chat_id, said("hi"))
    monkeypatch.setattr(turns, "TURN_BYTES_MAX", 500)
    refused(api.get(f"{path()}/{chat_id}/messages"), 413, "too-large")


def test_a_long_history_is_folded_beside_the_loop_and_read_backwards(
    api: httpx.Client, chat_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_INLINE", 0)
    for number in range(4):
        submit(api, chat_id, said(f"n {number}", f"u-{number}"))
    whole = loaded(api, chat_id)
    seen: list[dict[str, Any]] = []
    more: dict[str, Any] = {"limit": 1}
    for _ in range(4):
        page = api.get(f"{path()}/{chat_id}/messages", params=more)
        seen = [*page.json(), *seen]
        more["before"] = seen[0]["id"]
        assert page.headers["has-more"] == ("true" if len(seen) < len(whole) else "false")
    assert seen == whole
    monkeypatch.setattr(turns, "TURNS_BYTES_MAX", 1)
    assert loaded(api, chat_id) == whole[-2:]

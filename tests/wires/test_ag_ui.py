"""AG-UI over HTTP: what each kind of RunAgentInput does, and what the session has then."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.api.serving import SECONDS, Served, serving
from tests.wires.ag_ui_client import Client, Event, events_of, native

AGENTS = {
    "default": "demo:?delay_ms=0",
    "tool": "demo:?delay_ms=0&client_tool=*&thinking=false&tool=false",
    "ask": "demo:?delay_ms=0&ask=true",
    "held": "demo:?delay_ms=0&hold=middle",
    "open": "demo:?delay_ms=0&allow=text,tokens",
    "echo": "python:tests.wires.ag_ui_agent:echo?allow=*",
    "state": "python:tests.wires.ag_ui_agent:state",
    "question": "python:tests.wires.ag_ui_agent:question",
    "questions": "python:tests.wires.ag_ui_agent:questions",
}
LOOK = {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(agents=AGENTS) as running:
        yield running


@pytest.fixture
def api(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def user(text: str = "How are you?", name: str = "u1") -> Event:
    return {"id": name, "role": "user", "content": text}


def run(
    api: httpx.Client,
    thread_id: str,
    messages: list[Event],
    run_id: str = "run-1",
    agent: str = "default",
    **more: Any,
) -> httpx.Response:
    body = {"threadId": thread_id, "runId": run_id, "messages": messages, **more}
    answer = api.post(f"/ag-ui/{agent}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return answer


def connect(api: httpx.Client, thread_id: str) -> httpx.Response:
    answer = api.post("/ag-ui/default/connect", json={"threadId": thread_id})
    assert answer.status_code == 200, answer.text
    return answer


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """Return the message of a refusal, in the protocol's form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["type"], body["code"]) == ("RUN_ERROR", code)
    message: str = body["message"]
    return message


def messages_of(api: httpx.Client, thread_id: str) -> list[Event]:
    found: list[Event] = api.get(f"/sessions/{thread_id}/messages").json()["messages"]
    return found


def runs_of(api: httpx.Client, thread_id: str) -> list[str]:
    return [run["run_id"] for run in api.get(f"/sessions/{thread_id}/runs").json()["runs"]]


def test_a_run_ends_with_the_messages_of_the_session(api: httpx.Client, free_id: str) -> None:
    client = Client(user()).read(run(api, free_id, [user()]).text)
    assert client.shown() == native(messages_of(api, free_id))
    assert client.last["outcome"] == {"type": "success"}
    assert client.last["usage"][0]["inputTokens"] == 3
    assert [message["id"] for message in client.messages if message["role"] == "user"] == ["u1"]


def test_a_whole_conversation_sent_again_is_not_doubled(api: httpx.Client, free_id: str) -> None:
    client = Client(user()).read(run(api, free_id, [user()]).text)
    client.messages.append(user("And now?", "u2"))
    client.read(run(api, free_id, client.messages, "run-2").text)
    assert client.shown() == native(messages_of(api, free_id))
    assert [message["role"] for message in messages_of(api, free_id)].count("user") == 2


def test_a_repeat_of_a_request_shows_its_run_and_starts_no_other(
    api: httpx.Client, free_id: str
) -> None:
    first = run(api, free_id, [user()])
    again = run(api, free_id, [user()])
    assert again.headers["idempotency-replayed"] == "true"
    assert runs_of(api, free_id) == ["run-1"]
    partial = Client(user())
    partial.take(events_of(first.text)[:9])
    assert partial.read(again.text).shown() == native(messages_of(api, free_id))


def test_many_at_once_start_one_run(api: httpx.Client, served: Served, free_id: str) -> None:
    answers: list[Client] = []

    def ask() -> None:
        with served.client() as own:
            answers.append(Client(user()).read(run(own, free_id, [user()]).text))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert runs_of(api, free_id) == ["run-1"]
    expected = native(messages_of(api, free_id))
    assert [client.shown() for client in answers] == [expected] * 6


def test_a_list_that_ends_at_an_answered_message_is_answered_again(
    api: httpx.Client, free_id: str
) -> None:
    run(api, free_id, [user()])
    answer = run(api, free_id, [user()], "run-2").text
    assert "MESSAGES_SNAPSHOT" not in answer  # the client has what is before
    client = Client(user()).read(answer)
    assert client.shown() == native(messages_of(api, free_id))
    assert len(api.get(f"/sessions/{free_id}/branches").json()["branches"]) == 2


def test_a_list_with_nothing_new_shows_the_last_run_once_more(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()]).text)
    client.read(run(api, free_id, client.messages, "run-2").text)
    assert client.shown() == native(messages_of(api, free_id))
    assert runs_of(api, free_id) == ["run-1"]


def test_of_two_clients_the_one_that_lacks_messages_gets_them_all(
    api: httpx.Client, free_id: str
) -> None:
    one = Client(user()).read(run(api, free_id, [user()]).text)
    two = Client().read(connect(api, free_id).text)
    assert two.shown() == one.shown()
    one.messages.append(user("From one", "u2"))
    one.read(run(api, free_id, one.messages, "run-2").text)
    two.messages.append(user("From two", "u3"))
    two.read(run(api, free_id, two.messages, "run-3").text)
    assert two.shown() == native(messages_of(api, free_id))
    one.read(connect(api, free_id).text)
    assert one.shown() == two.shown()


def test_messages_of_the_client_come_with_a_new_thread(api: httpx.Client, free_id: str) -> None:
    call = {"id": "c0", "type": "function", "function": {"name": "look", "arguments": '{"x":1}'}}
    before: list[Event] = [
        user("Hello", "u0"),
        {"id": "a0", "role": "assistant", "content": "Hi", "toolCalls": [call]},
        {"id": "t0", "role": "tool", "toolCallId": "c0", "content": "sunny"},
        {"id": "r0", "role": "reasoning", "content": "never stored"},
        user(),
    ]
    run(api, free_id, before)
    stored = messages_of(api, free_id)
    assert [message["id"] for message in stored[:4]] == ["u0", "a0", "t0", "u1"]
    assert stored[1]["tool_calls"] == [{"id": "c0", "name": "look", "arguments": {"x": 1}}]


def test_an_id_that_the_gateway_cannot_have_is_the_clients_own_again(
    api: httpx.Client, free_id: str
) -> None:
    name = "urn:message/ä 1"
    client = Client(user(name=name)).read(run(api, free_id, [user(name=name)]).text)
    run(api, free_id, client.messages, "run-2")
    assert runs_of(api, free_id) == ["run-1"]
    assert Client().read(connect(api, free_id).text).messages[0]["id"] == name


def test_a_tool_of_the_client_is_called_and_its_result_answered(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user())
    client.read(run(api, free_id, [user()], agent="tool", tools=[LOOK]).text)
    [call] = client.messages[-1]["toolCalls"]
    assert client.last["outcome"] == {"type": "success", "pendingToolCallIds": [call["id"]]}
    reloaded = Client().read(connect(api, free_id).text)
    assert reloaded.last["outcome"] == client.last["outcome"]
    result = {"id": "t1", "role": "tool", "toolCallId": call["id"], "content": "sunny"}
    client.messages.append(result)
    client.read(run(api, free_id, client.messages, "run-2", "tool", tools=[LOOK]).text)
    assert client.shown()[-1] == ("assistant", "The tool answered: “sunny”.", [])
    assert client.shown() == native(messages_of(api, free_id))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"status": "resolved", "payload": {"approved": True}}, '{"words":3'),
        ({"status": "resolved", "payload": {"approved": False}}, "Not approved"),
        ({"status": "cancelled"}, "Not approved"),
    ],
)
def test_resume_answers_the_interrupt_once(
    api: httpx.Client, free_id: str, entry: Event, words: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()], agent="ask").text)
    [interrupt] = client.last["outcome"]["interrupts"]
    assert Client().read(connect(api, free_id).text).last["outcome"] == client.last["outcome"]
    resume = [{"interruptId": interrupt["id"], **entry}]
    for run_id in ("run-2", "run-2", "run-3"):
        seen = Client(*client.messages)
        seen.read(run(api, free_id, client.messages, run_id, "ask", resume=resume).text)
        assert seen.shown() == native(messages_of(api, free_id))
        assert any(content.startswith(words) for _, content, _ in seen.shown())
    assert runs_of(api, free_id) == ["run-1", "run-2"]


def test_a_chat_instead_of_an_answer_closes_the_call_for_the_client_too(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()], agent="ask").text)
    [interrupt] = client.last["outcome"]["interrupts"]
    client.messages.append(user("Never mind", "u2"))
    resume = [{"interruptId": interrupt["id"], "status": "cancelled"}]
    more: Any = {"resume": [{**resume[0], "interruptId": "req_unknown"}]}
    client.read(run(api, free_id, client.messages, "run-2", **more).text)
    assert client.shown() == native(messages_of(api, free_id))


def test_a_question_that_is_cancelled_is_closed_and_waits_no_more(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()], agent="question").text)
    [interrupt] = client.last["outcome"]["interrupts"]
    resume = [{"interruptId": interrupt["id"], "status": "cancelled"}]
    client.read(run(api, free_id, client.messages, "run-2", "question", resume=resume).text)
    assert client.last["outcome"] == {"type": "cancelled"}
    assert client.shown() == native(messages_of(api, free_id))
    for text in (
        connect(api, free_id).text,
        run(api, free_id, [user()], agent="question").text,
        run(api, free_id, client.messages, "run-3", "question", resume=resume).text,
    ):
        assert Client().read(text).last["outcome"] == {"type": "success"}
    assert api.get(f"/sessions/{free_id}").json()["open_requests"] == []


def test_an_answer_that_does_not_fit_or_is_another_one_is_refused(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()], agent="ask").text)
    name = client.last["outcome"]["interrupts"][0]["id"]

    def resume(payload: Any, run_id: str) -> httpx.Response:
        entry = {"interruptId": name, "status": "resolved", "payload": payload}
        body = {"threadId": free_id, "runId": run_id, "messages": [], "resume": [entry]}
        return api.post("/ag-ui/ask", json=body)

    refused(resume("yes", "run-2"), 422, "invalid-answer")
    assert resume({"approved": True}, "run-2").status_code == 200
    refused(resume({"approved": False}, "run-3"), 409, "already-answered")


def test_a_part_of_the_answers_is_refused_and_none_is_taken(
    api: httpx.Client, free_id: str
) -> None:
    client = Client(user()).read(run(api, free_id, [user()], agent="questions").text)
    names = [one["id"] for one in client.last["outcome"]["interrupts"]]
    assert len(names) == 2
    resume = [{"interruptId": name, "status": "resolved", "payload": "red"} for name in names]
    body = {"threadId": free_id, "runId": "run-2", "messages": [], "resume": resume[:1]}
    refused(api.post("/ag-ui/questions", json=body), 422, "invalid")
    assert api.get(f"/sessions/{free_id}/events?type=input_given").json()["events"] == []
    resume[0]["payload"] = "blue"
    client.read(run(api, free_id, client.messages, "run-2", "questions", resume=resume).text)
    assert client.shown()[-1][1] == "blue, red"


def test_properties_and_state_reach_agents_that_allow_them_and_others_ignore_them(
    api: httpx.Client, free_id: str
) -> None:
    more: Any = {
        "forwardedProps": {"text": "One two", "nonsense": 1},
        "state": {"a": 1},
        "context": [{"description": "d", "value": "v"}],
    }
    client = Client(user()).read(run(api, free_id, [user()], agent="open", **more).text)
    assert client.shown()[-1] == ("assistant", "One two", [])
    client = Client(user(name="u2"))
    client.read(run(api, f"{free_id}-2", [user(name="u2")], agent="echo", **more).text)
    assert '"state":{"a":1}' in client.shown()[-1][1]
    assert '"context":[{"description":"d","value":"v"}]' in client.shown()[-1][1]


def test_instructions_of_the_client_are_an_option_or_refused_by_name(
    api: httpx.Client, free_id: str
) -> None:
    said = [{"id": "s1", "role": "system", "content": "Be kind."}, user()]
    body = {"threadId": free_id, "runId": "run-1", "messages": said}
    assert "'system'" in refused(api.post("/ag-ui/default", json=body), 422, "option-refused")
    client = Client(*said).read(run(api, free_id, said, agent="echo").text)
    assert '"system":"Be kind."' in client.shown()[-1][1]


def test_the_agents_state_is_the_clients_state_also_after_a_reconnect(
    api: httpx.Client, free_id: str
) -> None:
    first = Client(user()).read(run(api, free_id, [user()], agent="state").text)
    again = Client(user()).read(run(api, free_id, [user()], agent="state").text)
    assert first.state == again.state == {"steps": 2}
    assert "STEP_STARTED" in first.types
    custom = [event for event in events_of(run(api, free_id, [user()]).text) if "name" in event]
    assert custom == [{"type": "CUSTOM", "name": "progress", "value": 0.5}]


@contextmanager
def in_background(api: httpx.Client, served: Served, thread_id: str) -> Iterator[list[str]]:
    """Run an agent that waits in the middle, until it is stopped; give what was streamed."""
    lines: list[str] = []
    has_begun = threading.Event()

    def read() -> None:
        body = {"threadId": thread_id, "runId": "run-1", "messages": [user()]}
        with served.client() as own, own.stream("POST", "/ag-ui/held", json=body) as answer:
            for piece in answer.iter_text():
                lines.append(piece)
                if "TEXT_MESSAGE_CONTENT" in piece:
                    has_begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert has_begun.wait(SECONDS)
        yield lines
    finally:
        api.post(f"/sessions/{thread_id}/cancel")
        reader.join(SECONDS)


def test_a_page_that_connects_in_mid_answer_sees_it_whole_and_stop_ends_it(
    api: httpx.Client, served: Served, free_id: str
) -> None:
    """R6: the reload neither stops the run nor starts another."""
    with in_background(api, served, free_id) as streamed:
        results: list[Client] = []

        def reload() -> None:
            with served.client() as own:
                results.append(Client(user()).read(connect(own, free_id).text))

        pages = [threading.Thread(target=reload) for _ in range(2)]
        for page in pages:
            page.start()
        until_open(api, free_id, 3)
        answer = api.post(f"/ag-ui/held/stop/{free_id}")
        assert answer.json() == {"stopped": True, "threadId": free_id, "runIds": ["run-1"]}
        for page in pages:
            page.join(SECONDS)
    expected = native(messages_of(api, free_id))
    first = Client(user()).read("".join(streamed))
    for client in (first, *results):
        assert client.shown() == expected
        assert client.last["outcome"] == {"type": "cancelled"}
    assert api.post(f"/ag-ui/held/stop/{free_id}").json()["stopped"] is False


def test_a_stream_that_is_ended_before_its_run_does_not_look_whole(
    api: httpx.Client, served: Served, free_id: str
) -> None:
    """R4: what a client has of such an answer must not be taken for all of it."""
    body = {"threadId": free_id, "runId": "run-1", "messages": [user()]}
    with served.client() as own, own.stream("POST", "/ag-ui/held", json=body) as answer:
        pieces = answer.iter_text()
        shown = next(pieces)
        while "TEXT_MESSAGE_CONTENT" not in shown:
            shown += next(pieces)
        [connection] = until_open(api, free_id, 1)
        path = f"/sessions/{free_id}/connections/{connection['connection_id']}"
        assert api.delete(path).status_code == 204
        shown += "".join(pieces)
    api.post(f"/ag-ui/held/stop/{free_id}")
    last = events_of(shown)[-1]
    assert (last["type"], last["code"]) == ("RUN_ERROR", "stream_superseded")


def until_open(api: httpx.Client, session_id: str, count: int) -> list[dict[str, Any]]:
    """Wait until so many streams of a session are open, and return them."""
    for _ in range(10_000):
        found: list[dict[str, Any]]
        found = api.get(f"/sessions/{session_id}/connections").json()["connections"]
        if len(found) >= count:
            return found
    raise AssertionError("the streams were not opened")


def test_a_chat_behind_a_run_waits_and_its_client_has_all_messages_then(
    api: httpx.Client, served: Served, free_id: str
) -> None:
    with in_background(api, served, free_id) as streamed:
        client = Client(user())
        client.take(events_of("".join(streamed)))
        client.messages.append(user("Next", "u2"))
        texts: list[str] = []

        def chat() -> None:
            with served.client() as own:
                texts.append(run(own, free_id, client.messages, "run-2").text)

        waiting = threading.Thread(target=chat)
        waiting.start()
        until_open(api, free_id, 2)
        api.post(f"/sessions/{free_id}/runs/run-1/cancel")
        waiting.join(SECONDS)
    assert client.read(texts[0]).shown() == native(messages_of(api, free_id))


WRONG: list[tuple[Any, int, str]] = [
    ({}, 422, "invalid"),
    ({"threadId": "../x", "runId": "r", "messages": []}, 422, "invalid"),
    ({"threadId": "t", "runId": "r", "messages": []}, 422, "nothing-to-answer"),
    ({"threadId": "t", "runId": "r", "messages": [{"id": "u", "role": "robot"}]}, 422, "invalid"),
    ({"threadId": "t", "runId": "r", "messages": [user("")]}, 422, "invalid"),
    (
        {"threadId": "t", "runId": "r", "messages": [{**user(), "content": [{"type": "x"}]}]},
        422,
        "invalid",
    ),
    (
        {"threadId": "t", "runId": "r", "messages": [user()], "tools": [{"name": ""}]},
        422,
        "invalid-client-tools",
    ),
    (
        {"threadId": "t", "runId": "r", "messages": [user()], "state": "x" * 70_000},
        422,
        "invalid",
    ),
]


WRONG += [
    (
        {"threadId": "t", "runId": "r", "messages": [user(name=f"u{at}") for at in range(count)]},
        422,
        "invalid",
    )
    for count in (1001, 10_001)
]


@pytest.mark.parametrize(("body", "status", "code"), WRONG)
def test_a_wrong_request_is_a_run_error_and_stores_nothing(
    api: httpx.Client, body: Any, status: int, code: str
) -> None:
    refused(api.post("/ag-ui/echo", json=body), status, code)
    assert api.get("/sessions/t").status_code == 404


def test_what_is_refused_before_a_route_is_found_has_the_form_too(served: Served) -> None:
    with httpx.Client(base_url=f"{served.url}/api/v1", trust_env=False) as plain:
        refused(plain.post("/ag-ui/a/b/c/d", json={}), 404, "not-found")
        refused(plain.get("/ag-ui/default"), 405, "method-not-allowed")
        refused(plain.post("/ag-ui/nobody", content=b"{"), 415, "unsupported-media-type")
        refused(
            plain.post("/ag-ui/default/connect", json={"threadId": "x"}), 404, "session-not-found"
        )


def test_a_web_page_of_an_allowed_origin_may_call() -> None:
    origin = "https://app.example"
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST",
             "Access-Control-Request-Headers": "content-type"}  # fmt: skip
    with (
        serving(agents=AGENTS, cors_origins=(origin,)) as own,
        httpx.Client(base_url=f"{own.url}/api/v1", trust_env=False, timeout=SECONDS) as api,
    ):
        answer = api.options("/ag-ui/default", headers=asked)
        assert answer.headers["access-control-allow-origin"] == origin
        body = {"threadId": "t", "runId": "r", "messages": [user()]}
        answer = api.post("/ag-ui/default", json=body, headers={"Origin": origin})
        assert answer.headers["access-control-allow-origin"] == origin
        refused(api.post("/ag-ui/default", json=body, headers={"Origin": "https://evil.example"}),
                403, "origin-not-allowed")  # fmt: skip


def test_a_wire_that_is_switched_off_is_not_there() -> None:
    with serving(agents=AGENTS, wires=("durable-streams",)) as own, own.client() as api:
        body = {"threadId": "t", "runId": "r", "messages": [user()]}
        answer = httpx.post(f"{own.url}/api/v1/ag-ui/default", json=body, trust_env=False)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert api.get("/sessions").json()["sessions"] == []

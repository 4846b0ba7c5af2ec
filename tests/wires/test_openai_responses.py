"""Responses and conversations over HTTP: what each request does to the session, and its errors."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bamboo_gateway.wires.openai import inputs
from bamboo_gateway.wires.openai.ids import (
    conversation_id,
    message_of,
    response_id,
    run_of,
    session_of,
)
from tests.api.keyed import bearer, keyed
from tests.api.serving import SECONDS, Served, serving
from tests.support.clients import local_client
from tests.support.waiting import until
from tests.wires.openai_agent import URL
from tests.wires.openai_frames import frames_of, shown
from tests.wires.test_openai_streams import TOOLS

RESPONSES, CONVERSATIONS = "/openai/v1/responses", "/openai/v1/conversations"
AGENTS = {
    "default": URL,
    "demo": "demo:?delay_ms=0",
    "held": "demo:?hold=middle&delay_ms=0",
    "asking": "demo:?ask=true&delay_ms=0",
}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(agents=AGENTS) as running:
        yield running


@pytest.fixture(scope="module")
def api(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client


def create(api: httpx.Client, given: Any, headers: Any = None, **more: Any) -> dict[str, Any]:
    answer = send(api, given, headers, **more)
    assert answer.status_code == 200, answer.text
    response: dict[str, Any] = answer.json()
    return response


def send(api: httpx.Client, given: Any, headers: Any = None, **more: Any) -> httpx.Response:
    body = {"model": "default", "input": given, **more}
    return api.post(RESPONSES, json=body, headers=headers)


def text_of(response: dict[str, Any]) -> str:
    return "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )


def session_id_of(response: dict[str, Any]) -> str:
    found = session_of(response["conversation"]["id"])
    assert found is not None
    return found


def said(api: httpx.Client, session_id: str) -> list[str]:
    page = api.get(f"/sessions/{session_id}/messages?limit=1000").json()
    return [
        one["content"] if isinstance(one["content"], str) else one["content"][-1].get("text", "")
        for one in page["messages"]
    ]


def refusal(answer: httpx.Response, status: int, param: str | None, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code), error
    return str(error["message"])


# -- ids --------------------------------------------------------------------------------------


def test_ids_hold_the_gateways_own_reversibly() -> None:
    for session, run in (("s-1", "run_1"), ("A" * 128, "b." + "c" * 126), ("x_.-", "0")):
        assert run_of(response_id(session, run)) == (session, run)
        assert session_of(conversation_id(session)) == session
    for wrong in ("", "resp_", "resp_????", response_id("s", "r") + "=", "resp_" + "A" * 500):
        assert run_of(wrong) is None
    for item in ("msg_1", "msg_1~2", "rs_msg_1~0", "fc_msg_1~3", "mcp_msg_1~0"):
        assert message_of(item) == "msg_1"
    assert message_of("../x") is None
    assert session_of("s-1") is None


# -- responses --------------------------------------------------------------------------------


def test_a_conversation_is_created_with_all_its_items_or_not_at_all(api: httpx.Client) -> None:
    present = api.get("/sessions?limit=1").json()["total"]
    items = [{"type": "function_call_output", "call_id": "c", "output": "y"}]
    for headers in ({}, {"Idempotency-Key": "conversation-1"}):
        refused = api.post(CONVERSATIONS, json={"items": items}, headers=headers)
        refusal(refused, 409, None, "no_open_tool_call")
    assert api.get("/sessions?limit=1").json()["total"] == present
    items = [{"role": "user", "content": "x"}]
    made = api.post(CONVERSATIONS, json={"items": items}, headers={"Idempotency-Key": "again"})
    assert len(api.get(f"{CONVERSATIONS}/{made.json()['id']}/items").json()["data"]) == 1


def test_what_nobody_could_retrieve_is_not_begun(api: httpx.Client) -> None:
    refusal(send(api, "x", background=True, store=False), 400, "background", "invalid_value")


def test_messages_obey_the_rules_of_the_gateways_own_api(api: httpx.Client) -> None:
    url = "https://example.com/" + "a" * 9000
    for content in ("", [{"type": "input_image", "image_url": url}]):
        items = [{"role": "user", "content": content}]
        words = refusal(send(api, items), 400, "input", "invalid_value")
        assert "content" in words
        added = api.post(CONVERSATIONS, json={"items": items})
        refusal(added, 400, "items", "invalid_value")


def test_a_response_is_a_run_of_a_session_that_all_others_see(api: httpx.Client) -> None:
    response = create(api, "Hello there", metadata={"a": "b"}, temperature=1)
    assert (response["status"], text_of(response)) == ("completed", "Hello there ")
    assert response["usage"]["total_tokens"] == 2
    assert response["metadata"] == {"a": "b"}
    session_id = session_id_of(response)
    assert said(api, session_id) == ["Hello there", "Hello there "]
    assert api.get(f"{RESPONSES}/{response['id']}").json() == response
    named = run_of(response["id"])
    assert named is not None
    run = api.get(f"/sessions/{session_id}/runs/{named[1]}").json()
    assert run["status"] == "completed"


def test_at_the_tip_the_session_goes_on_and_elsewhere_a_branch_begins(api: httpx.Client) -> None:
    first = create(api, "one")
    second = create(api, "two", previous_response_id=first["id"])
    session_id = session_id_of(first)
    assert session_id_of(second) == session_id
    assert second["previous_response_id"] == first["id"]
    assert said(api, session_id) == ["one", "one ", "two", "two "]
    assert len(api.get(f"/sessions/{session_id}/branches").json()["branches"]) == 1
    other = create(api, "history", previous_response_id=first["id"])
    assert text_of(other) == "user: one | assistant: one  | user: history"
    assert said(api, session_id) == ["one", "one ", "history", text_of(other)]
    assert len(api.get(f"/sessions/{session_id}/branches").json()["branches"]) == 2
    # What was left is still there, and can be gone on with.
    back = create(api, "history", previous_response_id=second["id"])
    assert text_of(back).startswith("user: one | assistant: one  | user: two | assistant: two ")
    assert api.get(f"{RESPONSES}/{second['id']}").json()["status"] == "completed"


def test_a_conversation_goes_on_at_its_tip(api: httpx.Client) -> None:
    items = [{"type": "message", "role": "user", "content": "before"}]
    made = api.post(CONVERSATIONS, json={"items": items, "metadata": {"k": "v"}}).json()
    named = create(api, "one", conversation=made["id"])
    assert named["conversation"] == {"id": made["id"]}
    create(api, "two", conversation={"id": made["id"]})
    assert said(api, session_id_of(named)) == ["before", "one", "one ", "two", "two "]
    assert api.get(f"{CONVERSATIONS}/{made['id']}").json()["metadata"] == {"k": "v"}


def test_behind_an_active_run_a_response_is_queued_and_begins_its_branch_later(
    api: httpx.Client,
) -> None:
    first = create(api, "one")
    second = create(api, "x", previous_response_id=first["id"], model="held", background=True)
    waits = create(api, "history", previous_response_id=first["id"], background=True)
    assert (second["status"], waits["status"]) == ("in_progress", "queued")
    # What waits already would come in between.
    between = send(api, "history", previous_response_id=second["id"], background=True)
    refusal(between, 409, None, "run_active")
    key = {"Idempotency-Key": f"behind-{waits['id'][-12:]}"}
    last = {"previous_response_id": waits["id"], "background": True}
    follows = create(api, "history", key, **last)
    assert follows["status"] == "queued"
    assert create(api, "history", key, **last)["id"] == follows["id"]
    url = f"{RESPONSES}/{waits['id']}"
    assert api.get(url).json()["status"] == "queued"
    assert api.post(f"{RESPONSES}/{second['id']}/cancel").json()["status"] == "cancelled"
    frames = frames_of(api.get(f"{url}?stream=true").text)
    assert [one["type"] for one in frames[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    history = "user: one | assistant: one  | user: history"
    assert text_of(shown(frames).check_end()) == history
    done = frames_of(api.get(f"{RESPONSES}/{follows['id']}?stream=true").text)
    assert text_of(shown(done).check_end()) == f"{history} | assistant: {history} | user: history"


def test_cancel_is_idempotent_and_a_cancelled_stream_has_an_end(api: httpx.Client) -> None:
    response = create(api, "x", model="held", background=True)
    url = f"{RESPONSES}/{response['id']}"
    for _ in range(2):
        assert api.post(f"{url}/cancel").json()["status"] == "cancelled"
    end = frames_of(api.get(f"{url}?stream=true").text)[-1]
    assert end["type"] == "response.incomplete"
    assert end["response"]["status"] == "cancelled"
    done = create(api, "y")
    assert api.post(f"{RESPONSES}/{done['id']}/cancel").json() == done


def test_a_failed_response_says_why_and_keeps_what_was_said(api: httpx.Client) -> None:
    response = create(api, "fail")
    assert response["status"] == "failed"
    assert response["error"]["code"] == "server_error"
    assert "model_gone" in response["error"]["message"]
    [item] = response["output"]
    assert (item["status"], text_of(response)) == ("incomplete", "I begin, ")
    cut = create(api, "long")
    assert (cut["status"], cut["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )


def test_a_deleted_response_is_gone_here_alone(api: httpx.Client) -> None:
    first = create(api, "one")
    url = f"{RESPONSES}/{first['id']}"
    busy = create(api, "x", model="held", background=True)
    refusal(api.delete(f"{RESPONSES}/{busy['id']}"), 409, None, "run_active")
    api.post(f"{RESPONSES}/{busy['id']}/cancel")
    assert api.delete(url).json() == {"id": first["id"], "object": "response", "deleted": True}
    for answer in (api.get(url), api.get(f"{url}?stream=true"), api.delete(url)):
        refusal(answer, 404, None, "run_not_found")
    refusal(
        send(api, "two", previous_response_id=first["id"]),
        400,
        "previous_response_id",
        "invalid_value",
    )
    assert said(api, session_id_of(first)) == ["one", "one "]
    # `store` is the same, from the begin on.
    unstored = create(api, "one", store=False)
    refusal(api.get(f"{RESPONSES}/{unstored['id']}"), 404, None, "run_not_found")


def test_input_items_are_those_of_the_request_the_latest_first(api: httpx.Client) -> None:
    given = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "c"}]},
    ]
    response = create(api, given)
    url = f"{RESPONSES}/{response['id']}/input_items"
    page = api.get(url).json()
    assert [one["content"][0]["text"] for one in page["data"]] == ["c", "b", "a"]
    first = api.get(f"{url}?limit=1&order=asc").json()
    assert (first["data"][0]["content"][0]["text"], first["has_more"]) == ("a", True)
    rest = api.get(f"{url}?order=asc&after={first['last_id']}").json()
    assert [one["role"] for one in rest["data"]] == ["assistant", "user"]


# -- tools, files, approvals ------------------------------------------------------------------


def test_the_client_runs_its_functions_and_sends_their_results(api: httpx.Client) -> None:
    asked = create(api, "weather", tools=TOOLS)
    calls = [one for one in asked["output"] if one["type"] == "function_call"]
    assert [one["arguments"] for one in calls] == ['{"city":"Rome"}', '{"city":"Oslo"}']
    outputs = [
        {"type": "function_call_output", "call_id": one["call_id"], "output": word}
        for one, word in zip(calls, ("sun", "snow"), strict=True)
    ]
    done = create(api, outputs, previous_response_id=asked["id"], tools=TOOLS)
    assert text_of(done) == "Results: sun, snow."
    shown_items = api.get(f"{CONVERSATIONS}/{done['conversation']['id']}/items?order=asc").json()
    assert [one["type"] for one in shown_items["data"]] == [
        "message",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
    ]
    # A client that keeps the conversation itself sends all of it, with equal result.
    whole = [{"role": "user", "content": "weather"}, *asked["output"], *outputs]
    alone = create(api, whole, tools=TOOLS)
    assert text_of(alone) == "Results: sun, snow."
    assert session_id_of(alone) != session_id_of(done)


def test_results_of_the_agents_own_tools_are_no_calls_for_the_client(api: httpx.Client) -> None:
    response = create(api, "tools")
    kinds = {item["type"] for item in response["output"]}
    assert kinds == {"reasoning", "message", "mcp_call"}
    items = api.get(f"{CONVERSATIONS}/{response['conversation']['id']}/items?limit=100").json()
    by_id = {item["id"]: item for item in items["data"]}
    for item in response["output"]:
        found = api.get(f"{CONVERSATIONS}/{response['conversation']['id']}/items/{item['id']}")
        assert found.json()["id"] == item["id"] == by_id[item["id"]]["id"]


def test_images_and_files_become_parts_of_the_message(api: httpx.Client) -> None:
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"0" * 16).decode()
    file = api.post("/files?name=a.txt", content=b"hello", headers={"Content-Type": "text/plain"})
    content = [
        {"type": "input_text", "text": "history"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{png}"},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {
            "type": "input_file",
            "filename": "b.pdf",
            "file_data": "data:application/pdf;base64,AA==",
        },
        {"type": "input_file", "file_id": file.json()["file_id"]},
    ]
    response = create(api, [{"role": "user", "content": content}])
    [message] = [
        one
        for one in api.get(f"/sessions/{session_id_of(response)}/messages").json()["messages"]
        if one["role"] == "user"
    ]
    kinds = [(one["type"], one.get("media_type")) for one in message["content"]]
    assert kinds == [
        ("text", None),
        ("image", "image/png"),
        ("image", "image/png"),
        ("file", "application/pdf"),
        ("file", "text/plain"),
    ]
    items = api.get(f"{RESPONSES}/{response['id']}/input_items").json()["data"]
    shown_parts = items[0]["content"]
    assert shown_parts[1]["image_url"] == content[1]["image_url"]
    assert shown_parts[4]["file_id"] == file.json()["file_id"]
    unknown = [{"role": "user", "content": [{"type": "input_image", "file_id": "file_none"}]}]
    assert send(api, unknown).json()["error"]["code"] == "unknown_file"


def approval_of(asked: dict[str, Any], *, approve: bool) -> dict[str, Any]:
    """The answer of a client to the approval that a response has."""
    [request] = [one for one in asked["output"] if one["type"] == "mcp_approval_request"]
    return {
        "type": "mcp_approval_response",
        "approval_request_id": request["id"],
        "approve": approve,
    }


def test_an_approval_is_asked_for_and_given(api: httpx.Client) -> None:
    asked = create(api, "count this", model="asking")
    assert asked["status"] == "completed"
    [request] = [one for one in asked["output"] if one["type"] == "mcp_approval_request"]
    assert (request["name"], request["arguments"]) == ("count_words", '{"text":"count this"}')
    [call] = [one for one in asked["output"] if one["type"] == "mcp_call"]
    assert (call["status"], call["output"]) == ("incomplete", None)
    assert call["approval_request_id"] == request["id"]
    given = approval_of(asked, approve=True)
    refusal(send(api, [given]), 400, "input", "invalid_value")
    more = {"previous_response_id": asked["id"], "model": "asking"}
    done = create(api, [given], **more)
    assert done["status"] == "completed"
    assert "count this" in text_of(done)
    # A repeat means the same run; another answer is refused.
    assert create(api, [given], **more)["id"] == done["id"]
    refusal(send(api, [{**given, "approve": False}], **more), 409, None, "already_answered")


@pytest.mark.parametrize("approve", [True, False])
def test_r2_the_response_behind_an_approval_has_the_call_with_its_result(
    api: httpx.Client, approve: bool
) -> None:
    asked = create(api, "count this", model="asking")
    given = approval_of(asked, approve=approve)
    listed = f"{CONVERSATIONS}/{asked['conversation']['id']}/items"
    url = f"{listed}?order=asc&limit=100"
    waiting = api.get(url).json()["data"]
    kinds = ["mcp_approval_request", "mcp_call"]
    assert [one["type"] for one in waiting if one["type"].startswith("mcp")] == kinds
    done = create(api, [given], previous_response_id=asked["id"], model="asking")
    before = next(one for one in asked["output"] if one["type"] == "mcp_call")
    call = done["output"][0]
    assert call == {**before, "status": "completed", "output": call["output"]}
    assert call["output"]
    for response in (asked, done):
        streamed = api.get(f"{RESPONSES}/{response['id']}?stream=true")
        frames = frames_of(streamed.text)
        assert shown(frames).check_end()["output"] == response["output"]
        for place, frame in enumerate(frames):
            after = f"&starting_after={frame['sequence_number']}"
            rest = api.get(f"{RESPONSES}/{response['id']}?stream=true{after}")
            assert frames_of(rest.text) == frames[place + 1 :]
    # The conversation has the approval, its answer, and the call once.
    items = api.get(url).json()["data"]
    found = [one for one in items if one["type"].startswith("mcp")]
    kinds.insert(1, "mcp_approval_response")
    assert [one["type"] for one in found] == kinds
    label = call["server_label"]
    assert {**found[0], "server_label": label} in asked["output"]
    assert (found[1]["approval_request_id"], found[1]["approve"]) == (found[0]["id"], approve)
    assert {**found[2], "server_label": label} == call
    for place, item in enumerate(items):
        assert api.get(f"{listed}/{item['id']}").json() == item
        page = api.get(f"{url}&after={item['id']}").json()["data"]
        assert page == items[place + 1 :]
    assert api.get(f"{listed}/mcpr_none").status_code == 404
    [answer] = api.get(f"{RESPONSES}/{done['id']}/input_items").json()["data"]
    assert answer == found[1]


def test_a_clients_tool_is_the_clients_behind_an_approval_too(api: httpx.Client) -> None:
    asked = create(api, "may I?", tools=TOOLS)
    [call, _] = asked["output"]
    assert (call["type"], call["name"]) == ("mcp_call", "open_door")
    given = [approval_of(asked, approve=True)]
    done = create(api, given, previous_response_id=asked["id"], tools=TOOLS)
    assert [one["type"] for one in done["output"]] == ["mcp_call", "function_call"]
    frames = frames_of(api.get(f"{RESPONSES}/{done['id']}?stream=true").text)
    assert shown(frames).check_end()["output"] == done["output"]
    result = {"type": "function_call_output", "output": "sunny"}
    result["call_id"] = done["output"][1]["call_id"]
    last = create(api, [result], previous_response_id=done["id"], tools=TOOLS)
    assert "sunny" in text_of(last)


def test_a_call_that_is_asked_about_twice_has_its_result_behind_the_second_approval(
    api: httpx.Client,
) -> None:
    responses = [create(api, "may I twice?", tools=TOOLS)]
    for _ in range(2):
        given = approval_of(responses[-1], approve=True)
        more = {"previous_response_id": responses[-1]["id"], "tools": TOOLS}
        responses.append(create(api, [given], **more))
    calls = [one["output"][0] for one in responses]
    assert [one["status"] for one in calls] == ["incomplete", "incomplete", "completed"]
    assert len({one["id"] for one in calls}) == 1
    asked = [one["output"][1]["id"] for one in responses[:2]]
    assert [one["approval_request_id"] for one in calls] == [asked[0], asked[1], asked[1]]
    for response in responses:
        frames = frames_of(api.get(f"{RESPONSES}/{response['id']}?stream=true").text)
        assert shown(frames).check_end()["output"] == response["output"]
    url = f"{CONVERSATIONS}/{responses[0]['conversation']['id']}/items?order=asc"
    items = api.get(url).json()["data"]
    kinds = [one["type"].removeprefix("mcp_") for one in items[1:-1]]
    assert kinds == [*["approval_request", "approval_response"] * 2, "call"]
    assert items[-2]["approval_request_id"] == asked[1]


# -- conversations ----------------------------------------------------------------------------


def test_items_are_listed_in_pages_from_either_end(api: httpx.Client) -> None:
    response = create(api, "tools")
    create(api, "and more", previous_response_id=response["id"])
    url = f"{CONVERSATIONS}/{response['conversation']['id']}/items"
    whole = api.get(f"{url}?limit=100&order=asc").json()
    ids = [one["id"] for one in whole["data"]]
    assert (len(ids) > 6, whole["has_more"]) == (True, False)
    assert [one["id"] for one in api.get(f"{url}?limit=100").json()["data"]] == ids[::-1]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        for limit in (1, 2, 3):
            found, after = [], ""
            while True:
                page = api.get(f"{url}?limit={limit}&order={order}{after}").json()
                found += [one["id"] for one in page["data"]]
                for item in page["data"]:
                    assert item in whole["data"]
                if not page["has_more"]:
                    break
                after = f"&after={page['last_id']}"
            assert found == expected


def test_the_last_item_can_be_taken_back_and_no_other(api: httpx.Client) -> None:
    first = create(api, "one")
    second = create(api, "two", previous_response_id=first["id"])
    session_id = session_id_of(first)
    url = f"{CONVERSATIONS}/{first['conversation']['id']}/items"
    ids = [one["id"] for one in api.get(f"{url}?order=asc").json()["data"]]
    message = refusal(api.delete(f"{url}/{ids[0]}"), 400, None, "not_the_last_message")
    assert ids[0] in message
    for gone in (ids[3], ids[2], ids[1], ids[0]):
        assert api.delete(f"{url}/{gone}").json()["object"] == "conversation"
        assert gone not in [one["id"] for one in api.get(url).json()["data"]]
    assert said(api, session_id) == []
    log = api.get(f"/sessions/{session_id}/events?limit=1000").json()["events"]
    hidden = [one["message_id"] for one in log if one["type"] == "message_hidden"]
    assert hidden == ids[::-1]
    # The agent does not get it either, and the response is what it was.
    assert text_of(create(api, "history", conversation=first["conversation"])) == "user: history"
    assert api.get(f"{RESPONSES}/{second['id']}").json() == second
    several = create(api, "tools")
    items = api.get(f"{CONVERSATIONS}/{several['conversation']['id']}/items").json()["data"]
    refusal(
        api.delete(f"{CONVERSATIONS}/{several['conversation']['id']}/items/{items[0]['id']}"),
        400,
        "item_id",
        "invalid_value",
    )


def test_a_conversation_is_changed_and_deleted(api: httpx.Client) -> None:
    made = api.post(CONVERSATIONS, json={"metadata": {"a": "1", "b": "2"}}).json()
    url = f"{CONVERSATIONS}/{made['id']}"
    assert api.post(url, json={"metadata": {"b": "3"}}).json()["metadata"] == {"b": "3"}
    added = api.post(f"{url}/items", json={"items": [{"role": "user", "content": "x"}]}).json()
    assert api.get(f"{url}/items/{added['first_id']}").json() == added["data"][0]
    assert api.delete(url).json()["deleted"] is True
    refusal(api.get(url), 404, None, "session_not_found")
    assert api.get(f"/sessions/{made['id'].removeprefix('conv_')}").status_code == 404


# -- errors -----------------------------------------------------------------------------------

_MESSAGE = {"role": "user", "content": "x"}


def _said(*parts: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts)}]}


_BAD_URL = {"type": "input_image", "image_url": "file:///etc/passwd"}
_BAD_CALL = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{"}
_BOTH = {"conversation": "conv_x", "previous_response_id": "resp_x"}
_UNSUPPORTED: list[tuple[dict[str, Any], str]] = [
    ({"input": [{"type": "web_search_call"}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    (_said({"type": "input_audio"}), "input[0].content[0].type"),
    ({"model": "demo", "instructions": "Be nice."}, "instructions"),
    ({"model": "demo", "input": [{"role": "developer", "content": "x"}]}, "input[0]"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"max_tool_calls": 2}, "max_tool_calls"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"service_tier": "flex"}, "service_tier"),
    ({"nonsense": 1}, "nonsense"),
    ({"top_p": 0.5}, "top_p"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
]
_INVALID: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 1}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["x"]}, "input[0]"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    (_said(), "input[0].content"),
    (_said(_BAD_URL), "input[0].content[0].image_url"),
    ({"input": [_MESSAGE] * (inputs.INPUT_ITEMS_MAX + 1)}, "input"),
    ({"input": [_BAD_CALL]}, "input[0].arguments"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"stream": "yes"}, "stream"),
    ({"previous_response_id": "resp_x"}, "previous_response_id"),
    (_BOTH, "previous_response_id"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
]


def _wrong() -> Iterator[tuple[dict[str, Any], str, str]]:
    yield {"model": "nobody"}, "model", "model_not_found"
    yield {"conversation": 5}, "conversation", "session_not_found"
    yield {"tools": [{"type": "function", "name": ""}]}, "tools[0]", "invalid_client_tools"
    yield from ((body, param, "unsupported_parameter") for body, param in _UNSUPPORTED)
    yield from ((body, param, "invalid_value") for body, param in _INVALID)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    list(_wrong()),
)
def test_what_is_wrong_or_not_there_is_refused_by_its_name_and_nothing_begins(
    api: httpx.Client, body: dict[str, Any], param: str, code: str
) -> None:
    before = api.get("/sessions?limit=1").json()["total"]
    whole = {"model": "default", "input": "x", **body}
    answer = api.post(
        RESPONSES, json={name: whole[name] for name in whole if whole[name] is not None}
    )
    status = 404 if code == "session_not_found" else 400
    refusal(answer, status, param, code)
    assert answer.headers["x-should-retry"] == "false"
    assert api.get("/sessions?limit=1").json()["total"] == before


def test_values_that_say_nothing_are_taken(api: httpx.Client) -> None:
    nothing = {
        "temperature": 1,
        "top_p": 1.0,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "truncation": "auto",
        "service_tier": "auto",
        "include": ["reasoning.encrypted_content"],
        "user": "u",
        "prompt_cache_key": "k",
        "reasoning": {"summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": None,
    }
    assert create(api, "x", model="demo", **nothing)["status"] == "completed"


def test_instructions_that_the_operator_allows_reach_the_agent(api: httpx.Client) -> None:
    response = create(api, "system", instructions="Be brief.")
    assert text_of(response) == "My instructions: Be brief."
    assert response["instructions"] == "Be brief."
    given = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "history"}]
    assert text_of(create(api, given)) == "system: Be kind. | user: history"


def test_bodies_that_are_none_are_refused_in_openais_form(api: httpx.Client) -> None:
    kind = {"Content-Type": "application/json"}
    refusal(api.post(RESPONSES, content=b"{", headers=kind), 400, None, "invalid_json")
    refusal(api.post(RESPONSES, content=b"x"), 415, None, "unsupported_media_type")
    for wrong in (b"[]", b'"x"', b"5", b"null", b""):
        answer = api.post(RESPONSES, content=wrong, headers=kind)
        assert answer.status_code == 400, (wrong, answer.text)
        assert answer.json()["error"]["type"] == "invalid_request_error"
    # No operation documents these two.
    with local_client(base_url=api.base_url) as plain:
        refusal(plain.get("/openai/v1/nothing"), 404, None, "not_found")
        refusal(plain.put(RESPONSES, json={}), 405, None, "method_not_allowed")
    refusal(api.get(f"{RESPONSES}/resp_x"), 404, None, "run_not_found")
    unknown = response_id("none", "run_1")
    refusal(api.get(f"{RESPONSES}/{unknown}"), 404, None, "session_not_found")


def test_a_gateway_key_is_the_key_of_the_sdk(tmp_path_factory: pytest.TempPathFactory) -> None:
    with keyed(tmp_path_factory.mktemp("keys")) as gateway:
        alice, bob = gateway.make("alice"), gateway.make("bob")
        body = {"model": "default", "input": "Hello"}
        made = gateway.ask("POST", RESPONSES, bearer(alice[1]), json=body)
        assert made.status_code == 200
        url = f"{RESPONSES}/{made.json()['id']}"
        assert gateway.ask("GET", url, bearer(alice[1])).status_code == 200
        refusal(gateway.ask("GET", url, bearer(bob[1])), 404, None, "session_not_found")
        for headers in ({}, bearer("nonsense")):
            answer = gateway.ask("POST", RESPONSES, headers, json=body)
            refusal(answer, 401, None, "invalid_api_key")


def test_a_page_of_a_listed_origin_may_send_what_the_sdk_sends() -> None:
    origin = "https://app.example"
    names = ["authorization", "content-type", "x-stainless-os", "x-stainless-retry-count"]
    with serving(agents=AGENTS, cors_origins=(origin,)) as served, served.client() as api:
        with local_client(base_url=api.base_url) as page:
            asked = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": ", ".join(names),
            }
            assert page.options(RESPONSES, headers=asked).status_code == 200
            asked["Origin"] = "https://evil.example"
            assert page.options(RESPONSES, headers=asked).status_code == 403
            refusal(
                page.post(RESPONSES, json={}, headers={"Origin": "https://evil.example"}),
                403,
                None,
                "origin_not_allowed",
            )
        answer = send(api, "x", {"Origin": origin}, top_logprobs=1)
        assert answer.headers["access-control-allow-origin"] == origin
        assert "X-Should-Retry" in answer.headers["access-control-expose-headers"]


# -- repeats ----------------------------------------------------------------------------------


def tried(times: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(times)}


def runs_in(api: httpx.Client, session_id: str) -> int:
    return len(api.get(f"/sessions/{session_id}/runs").json()["runs"])


def test_a_repeat_by_an_sdk_gets_the_run_of_the_first_try(api: httpx.Client) -> None:
    first = create(api, "again and again", tried(0))
    for _ in range(2):  # and two equal requests of a user are two
        first = create(api, "again and again", tried(0))
        for times in (1, 2):
            assert create(api, "again and again", tried(times)) == first
        assert runs_in(api, session_id_of(first)) == 1
    another = create(api, "again and again", tried(0))
    assert another["id"] != first["id"]
    conversation = api.get(f"{CONVERSATIONS}/{first['conversation']['id']}").json()
    assert conversation["metadata"] == {}
    # In a session that is there.
    more = {"previous_response_id": first["id"]}
    second = create(api, "more", tried(0), **more)
    assert create(api, "more", tried(1), **more)["id"] == second["id"]
    streamed = api.post(
        RESPONSES,
        json={"model": "default", "input": "more", **more},
        headers=tried(1) | {"Accept": "text/event-stream"},
    )
    assert streamed.json()["id"] == second["id"]
    assert runs_in(api, session_id_of(first)) == 2
    # A repeat whose first try never came begins.
    assert create(api, "never sent before", tried(1))["status"] == "completed"


def test_an_idempotency_key_holds_as_everywhere(api: httpx.Client) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = create(api, "keyed", key)
    assert create(api, "keyed", key)["id"] == first["id"]
    refusal(send(api, "another", key), 400, None, "idempotency_key_reused")
    assert runs_in(api, session_id_of(first)) == 1


@pytest.mark.parametrize("asked", [5, [], {"tools": 1}, {"tools": [1, {}, {"name": 2}]}, {"x": 1}])
def test_metadata_of_a_native_client_breaks_no_response(api: httpx.Client, asked: Any) -> None:
    message = {"role": "user", "content": "tools", "metadata": {"openai": asked}}
    turn = api.post("/chat", json={"message": message}, headers={"Prefer": "wait=60"}).json()
    url = f"{RESPONSES}/{response_id(turn['session_id'], turn['run_id'])}"
    assert api.get(url).json()["status"] == "completed"
    shown(frames_of(api.get(f"{url}?stream=true").text)).check_end()


def test_a_queued_response_that_is_cancelled_has_an_end(api: httpx.Client) -> None:
    first = create(api, "x", model="held", background=True)
    waits = create(api, "y", conversation=first["conversation"], background=True)
    url = f"{RESPONSES}/{waits['id']}"
    assert api.post(f"{url}/cancel").json()["status"] == "cancelled"
    kinds = [one["type"] for one in frames_of(api.get(f"{url}?stream=true").text)]
    assert kinds == ["response.created", "response.queued", "response.incomplete"]
    assert [one["role"] for one in api.get(f"{url}/input_items").json()["data"]] == ["user"]
    assert api.get(f"{RESPONSES}/{first['id']}").json()["status"] == "in_progress"
    # The end of the other run is none of this stream's.
    api.post(f"{RESPONSES}/{first['id']}/cancel")
    end = frames_of(api.get(f"{RESPONSES}/{first['id']}?stream=true").text)[-1]
    assert end["response"]["id"] == first["id"]


# -- the session's whole life -------------------------------------------------------------------


def test_r2_a_response_streams_while_its_session_is_closed_or_archived(api: httpx.Client) -> None:
    response = create(api, "tools")
    session_id = session_id_of(response)
    url = f"{RESPONSES}/{response['id']}"
    frames = frames_of(api.get(f"{url}?stream=true").text)
    for action in ("close", "archive"):
        assert api.post(f"/sessions/{session_id}/{action}").status_code < 300
        assert frames_of(api.get(f"{url}?stream=true").text) == frames
        assert api.get(url).json() == response
    refusal(send(api, "x", previous_response_id=response["id"]), 409, None, "session_archived")


def test_r6_a_client_that_leaves_stops_nothing(served: Served, api: httpx.Client) -> None:
    with served.client() as leaving:
        body = {"model": "held", "input": "x", "stream": True}
        with leaving.stream("POST", RESPONSES, json=body, timeout=SECONDS) as stream:
            text = ""
            for part in stream.iter_text():
                text += part
                if "output_text.delta" in text:
                    break
        response = frames_of(text[: text.rindex("\n\n") + 2])[0]["response"]
    url = f"{RESPONSES}/{response['id']}"
    assert api.get(url).json()["status"] == "in_progress"
    api.post(f"{url}/cancel")
    until(lambda: api.get(url).json()["status"] == "cancelled", "the run has ended")

"""Events over HTTP: pages, long polls, and appending objects, arrays and NDJSON."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.api.serving import SECONDS, Served, refused, serving

LINES = {"Content-Type": "application/x-ndjson"}


def custom(name: str, value: Any = None) -> dict[str, Any]:
    return {"type": "custom", "name": name, "value": value}


def names(api: httpx.Client, session_id: str) -> list[str]:
    events = api.get(f"/sessions/{session_id}/events", params={"type": "custom"}).json()["events"]
    return [event["name"] for event in events]


def test_one_event_and_a_list_are_appended(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}/events"
    one = api.post(path, json=custom("a", {"deep": [1, 2.5, None, "ü"]}))
    assert one.status_code == 201
    assert one.json()["first"] == one.json()["last"]
    many = api.post(path, json=[custom("b"), custom("c")]).json()
    assert many["count"] == 2
    assert names(api, session_id) == ["a", "b", "c"]
    events = api.get(path, params={"after": one.json()["first"]}).json()
    assert [event["name"] for event in events["events"]] == ["b", "c"]
    assert events["next"] == many["last"]


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"type": "custom"},
        {"type": "nonsense"},
        {"type": "custom", "name": "x", "seq": 1},
        {"type": "custom", "name": "x", "time": "now"},
        {"type": "custom", "name": 1},
        {"type": "token", "content": "x"},
        {"type": "complete"},
        {"type": "run_start"},
        {"type": "session_created"},
        {"type": "state_change", "to": "closed"},
        {"type": "message", "message": {"role": "user", "content": "x"}},
        {"type": ["custom"]},
        {"type": "custom", "name": "x", "run_id": 5},
    ],
)
def test_a_bad_event_refuses_its_whole_list(
    api: httpx.Client, session_id: str, bad: dict[str, Any]
) -> None:
    path = f"/sessions/{session_id}/events"
    refused(api.post(path, json=bad), 422, "invalid-event")
    refused(api.post(path, json=[custom("ok"), bad]), 422, "invalid-event")
    assert names(api, session_id) == []


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        ({}, "Not a valid event: `type` is one of: token, thinking, "),
        ({"type": "nonsense"}, "Not a valid event: `type` is one of: token, thinking, "),
        (
            {"type": "custom", "name": "x", "more": 1},
            "Not a valid event: custom.more: no such field",
        ),
    ],
    ids=["no_type", "unknown_type", "unknown_field"],
)
def test_the_refusal_of_an_event_names_the_types_or_the_field(
    api: httpx.Client, session_id: str, bad: dict[str, Any], detail: str
) -> None:
    """It says what the client may send, and not what the parser calls its own parts."""
    answer = api.post(f"/sessions/{session_id}/events", json=bad)
    refused(answer, 422, "invalid-event")
    assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize("body", [[], [[]], [1], 1, "x", [custom("x")] * 1001])
def test_a_body_that_is_not_an_event_or_list_is_422(
    api: httpx.Client, session_id: str, body: Any
) -> None:
    refused(api.post(f"/sessions/{session_id}/events", json=body), 422, "invalid")


def test_lines_are_appended_as_they_arrive(served: Served, session_id: str) -> None:
    seen: list[int] = []
    with served.client() as api, served.client() as other:

        def lines() -> Iterator[bytes]:
            for number in range(3):
                # Cut in the middle of the line, and a blank one between.
                line = json.dumps(custom(f"n{number}")).encode() + b"\r\n\n"
                yield line[:9]
                yield line[9:]
                while len(names(other, session_id)) <= number:
                    pass
                seen.append(number)

        answer = api.post(f"/sessions/{session_id}/events", content=lines(), headers=LINES)
        assert answer.status_code == 201
        assert answer.json()["count"] == 3
        assert seen == [0, 1, 2]
        assert names(api, session_id) == ["n0", "n1", "n2"]


def test_the_last_line_needs_no_newline_and_an_empty_body_appends_nothing(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}/events"
    body = b"\n".join(json.dumps(custom(name)).encode() for name in "ab")
    assert api.post(path, content=body, headers=LINES).json()["count"] == 2
    empty = api.post(path, content=b"", headers=LINES)
    assert (empty.status_code, empty.json()["count"]) == (201, 0)


@pytest.mark.parametrize(
    ("bad", "refusal"),
    [
        *((line, (400, "malformed")) for line in (b"{", b"nope", b"\xff")),
        *((line, (422, "invalid-event")) for line in (b"[]", b'{"type":"custom"}')),
        (b'{"type":"token","content":"x"}', (422, "invalid-event")),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_the_lines_before_it_are_kept(
    api: httpx.Client, session_id: str, bad: bytes, refusal: tuple[int, str]
) -> None:
    path = f"/sessions/{session_id}/events"
    good = json.dumps(custom("a")).encode()
    body = b"\n".join([good, b"", good, bad, good])
    problem = refused(api.post(path, content=body, headers=LINES), *refusal)
    assert problem["line"] == 4
    assert problem["appended"]["count"] == 2
    assert names(api, session_id) == ["a", "a"]
    first = refused(api.post(path, content=bad, headers=LINES), *refusal)
    assert first["line"] == 1
    assert first["appended"] == {"first": None, "last": None, "count": 0}


def test_a_line_over_the_bound_is_refused_with_its_number_before_it_ends() -> None:
    with serving(max_event_bytes=2048) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})

        def endless() -> Iterator[bytes]:
            yield json.dumps(custom("a")).encode() + b"\n"
            yield b'{"type":"custom","name":"'
            for _ in range(100):
                yield b"x" * 1000

        answer = api.post("/sessions/s/events", content=endless(), headers=LINES)
        problem = refused(answer, 413, "event-too-large")
        assert (problem["line"], problem["appended"]["count"]) == (2, 1)
        whole = json.dumps(custom("b", "x" * 3000)).encode() + b"\n"
        problem = refused(
            api.post("/sessions/s/events", content=whole, headers=LINES), 413, "event-too-large"
        )
        assert problem["line"] == 1
        assert names(api, "s") == ["a"]


def test_ndjson_is_bounded_per_line_and_not_as_a_body() -> None:
    with serving(max_body_bytes=4096) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        body = b"".join(json.dumps(custom("x", "v" * 500)).encode() + b"\n" for _ in range(50))
        assert api.post("/sessions/s/events", content=body, headers=LINES).json()["count"] == 50


def test_a_repeated_ndjson_request_appends_only_missing_lines(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}/events"
    headers = {**LINES, "Idempotency-Key": "upload"}
    lines = [json.dumps(custom(name)).encode() + b"\n" for name in "abcd"]
    assert api.post(path, content=b"".join(lines[:2]), headers=headers).json()["count"] == 2
    whole = api.post(path, content=b"".join(lines), headers=headers)
    assert whole.json()["count"] == 4
    again = api.post(path, content=b"".join(lines), headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == whole.json()
    assert names(api, session_id) == list("abcd")
    other = [lines[3], *lines[1:]]
    answer = api.post(path, content=b"".join(other), headers=headers)
    refused(answer, 422, "idempotency-key-reused")


def test_an_incomplete_line_of_a_lost_client_is_not_appended(
    served: Served, session_id: str
) -> None:
    head = (
        f"POST /api/v1/sessions/{session_id}/events HTTP/1.1\r\nHost: localhost\r\n"
        "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    ).encode()
    line = json.dumps(custom("whole")).encode() + b"\n"
    torn = b'{"type":"custom","name":"torn"}'
    with served.client() as api:
        with socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS) as sock:
            sock.sendall(head + b"%x\r\n%b\r\n" % (len(line), line))
            sock.sendall(b"%x\r\n%b\r\n" % (len(torn), torn))
            while names(api, session_id) != ["whole"]:
                pass
        api.post(f"/sessions/{session_id}/events", json=custom("later"))
        assert names(api, session_id) == ["whole", "later"]


def test_events_are_paged_filtered_and_read_backwards(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}/events"
    api.post(path, json=[custom(name) for name in "abc"])
    api.post(f"/sessions/{session_id}/messages", json={"role": "assistant", "content": "x"})
    page = api.get(path, params={"limit": 2}).json()
    assert [event["seq"] for event in page["events"]] == [1, 2]
    assert page["has_more"]
    rest = api.get(path, params={"after": page["next"]}).json()
    assert [event["seq"] for event in rest["events"]] == [3, 4, 5]
    assert not rest["has_more"]
    assert api.get(path, params={"after": "3"}).json()["events"] == rest["events"][1:]
    for types in ("message,session_created", ["message", "session_created"]):
        found = api.get(path, params={"type": types}).json()["events"]
        assert [event["type"] for event in found] == ["session_created", "message"]
    back = api.get(path, params={"order": "desc", "limit": 2}).json()
    assert [event["seq"] for event in back["events"]] == [5, 4]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_has_more_counts_only_events_of_the_wanted_types(
    api: httpx.Client, session_id: str, order: str
) -> None:
    path = f"/sessions/{session_id}/events"
    message = {"role": "user", "content": "x"}
    for event in ("a", None, "b", None, "c"):
        if event is None:
            api.post(f"/sessions/{session_id}/messages", json=message)
        else:
            api.post(path, json=custom(event))
    asked: dict[str, Any] = {"type": "custom", "order": order}
    for limit in (1, 2, 3, 4):
        heard: list[str] = []
        page: dict[str, Any] = {"has_more": True}
        after: dict[str, str] = {}
        while page["has_more"]:
            page = api.get(path, params=asked | after | {"limit": limit}).json()
            assert 1 <= len(page["events"]) <= limit
            heard += [event["name"] for event in page["events"]]
            after = {"after": page["next"]}
        assert heard == (["a", "b", "c"] if order == "asc" else ["c", "b", "a"])


def test_a_position_of_another_epoch_or_beyond_the_end_is_gone(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}/events"
    epoch = api.get(f"/sessions/{session_id}").json()["position"].split("-")[0]
    for gone in ("1-1", f"{epoch}-999", "999", f"{epoch}-{10**18}", "9" * 20, f"{10**18}-1"):
        refused(api.get(path, params={"after": gone}), 410, "position-gone")
    assert len(api.get(path, params={"after": "0"}).json()["events"]) == 1


def test_a_long_poll_waits_for_an_event_and_gives_up_in_time(
    served: Served, session_id: str
) -> None:
    path = f"/sessions/{session_id}/events"
    with served.client() as api:
        position = api.get(path).json()["next"]
        empty = api.get(path, params={"after": position, "wait": "0.05"}).json()
        assert (empty["events"], empty["next"]) == ([], position)
        found: list[dict[str, Any]] = []

        def wait() -> None:
            with served.client() as other:
                params = {"after": position, "wait": "20", "type": "custom"}
                found.extend(other.get(path, params=params).json()["events"])

        thread = threading.Thread(target=wait)
        thread.start()
        api.post(f"/sessions/{session_id}/messages", json={"role": "user", "content": "no"})
        api.post(path, json=custom("yes"))
        thread.join(SECONDS)
        assert [event["name"] for event in found] == ["yes"]


def test_an_external_program_can_be_the_agent_of_a_run(api: httpx.Client, session_id: str) -> None:
    runs = f"/sessions/{session_id}/runs"
    opened = api.post(runs, json={"agent": "external", "run_id": "ext"})
    assert opened.status_code == 201
    assert opened.headers["location"] == f"/api/v1{runs}/ext"
    refused(api.post(runs, json={"agent": "external"}), 409, "run-active")
    refused(api.post(runs, json={"agent": "external", "run_id": "ext"}), 409, "run-exists")
    events = f"/sessions/{session_id}/events"
    said = [
        {"type": "token", "run_id": "ext", "content": "Hel"},
        {"type": "token", "run_id": "ext", "content": "lo"},
    ]
    assert api.post(events, json=said).json()["count"] == 2
    end = {"type": "complete", "run_id": "ext", "usage": {"total_tokens": 3}}
    assert api.post(events, json=end).status_code == 201
    assert api.get(f"{runs}/ext").json()["status"] == "completed"
    message = api.get(f"/sessions/{session_id}/messages").json()["messages"][-1]
    assert (message["content"], message["role"]) == ("Hello", "assistant")
    refused(api.post(events, json=said), 409, "run-ended")
    other = [{**said[0], "run_id": "nobody"}]
    refused(api.post(events, json=other), 404, "run-not-found")


def test_waiting_for_a_silent_external_run_does_not_keep_it_open() -> None:
    with serving(external_run_timeout_seconds=0.3) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        api.post("/sessions/s/runs", json={"agent": "external", "run_id": "silent"})
        run = api.get("/sessions/s/runs/silent", headers={"Prefer": "wait=60"}).json()
        assert (run["status"], run["error"]["code"]) == ("failed", "timeout")


def test_token_counts_out_of_range_are_refused_and_the_largest_is_kept(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    most = 2**53 - 1
    for count in (-1, most + 1, 2**64 - 1):
        said = {"role": "assistant", "content": "x", "usage": {"prompt_tokens": count}}
        refused(api.post(f"{path}/messages", json=said), 422, "invalid")
    for number in range(2):
        api.post(f"{path}/runs", json={"agent": "external", "run_id": f"r{number}"})
        end = {"type": "complete", "run_id": f"r{number}"}
        for count in (-1, most + 1, 2**64 - 1):
            wrong = end | {"usage": {"prompt_tokens": count}}
            refused(api.post(f"{path}/events", json=wrong), 422, "invalid-event")
        api.post(f"{path}/events", json=end | {"usage": {"prompt_tokens": most}})
    assert api.get(path).json()["usage"]["prompt_tokens"] == most
    assert api.get(f"{path}/statistics").json()["prompt_tokens"] == most
    assert api.get("/statistics").json()["prompt_tokens"] == most

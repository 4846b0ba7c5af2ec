"""Every route works at every replica for every session, and shows what another has acknowledged.

Each test prepares at one of two processes, calls at the other one, and compares what both say. The
routes are those of the OpenAPI document; one that has no plan here fails the test.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from bamboo_gateway.wires.openai.ids import conversation_id, response_id
from tests.api.serving import refused
from tests.api.test_owners import ABOUT_ONE, DOCUMENT, OPERATIONS, OTHERS
from tests.cluster.pairs_of_processes import WAITING, Case, Pair, pair_of_processes, said
from tests.support.frames import parse_frames
from tests.support.postgres import GivenServer, PostgresServer
from tests.support.waiting import until

Request = dict[str, Any]
Plan = Callable[[Case], Request]

_OF_THE_REQUEST = frozenset({"x-request-id", "date", "server", "ratelimit", "content-length"})
_EVENTS = "text/event-stream"


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer | GivenServer
) -> Iterator[Pair]:
    with pair_of_processes(tmp_path_factory.mktemp("pair"), postgres_server) as made:
        yield made


@pytest.fixture
def case(pair: Pair) -> Iterator[Case]:
    with pair.case() as made:
        yield made


# -- what can be read ------------------------------------------------------------------------------

QUERIES: dict[str, tuple[str, ...]] = {
    "/sessions/{session_id}": ("", "?include_messages=true"),
    "/sessions/{session_id}/events": ("", "?order=desc&limit=5", "?type=message"),
    "/sessions/{session_id}/messages": ("", "?limit=1&order=desc"),
    "/sessions/{session_id}/export": ("?format=json", "?format=markdown&include_metadata=true"),
    "/ds/{session_id}": ("?offset=-1", "?offset=now"),
    "/sessions": ("?sort_by=created_at", "?sort_by=title&title_contains=plans", "?shared=true"),
    "/archive": ("?sort_by=created_at",),
    "/summaries": ("?sort_by=created_at",),
    "/changes": ("?after={cursor}",),
}
"""How a route is asked, where that is not once without a query."""

OWN = frozenset(
    {
        "/diagnostics",
        "/metrics",
        "/health/ready",
        "/sessions/{session_id}/diagnostics",
        "/webhooks/{webhook_id}/deliveries",  # and this goes on by itself
    }
)
"""Each replica answers these about itself: the answers are of one status and form."""

STREAMS = frozenset(
    {"/stream/{session_id}", "/reconnect/{session_id}", "/stream"}
    | {f"/ai-sdk/{version}chat/{{session_id}}/stream" for version in ("", "v6/", "v7/")}
)
"""These go on for ever. Tests below read them, except the joint `/stream` and `/reconnect`."""

LATER = frozenset({"/search"})
"""A message is found within `checkpoint_interval_seconds`, with one process as with several."""

OF_THE_MOMENT = frozenset({"failing_since", "last_activity_at", "next", "secret"})
"""Streams move the activity, a cursor has the time in it, and a secret is shown once."""

READS = sorted(
    {
        path.removeprefix("/api/v1")
        for method, path in OPERATIONS
        if method == "GET" and path.startswith("/api/v1")
    }
    - STREAMS
    - LATER
)


def seen(case: Case, client: httpx.Client) -> dict[str, Any]:
    """Return what one replica says to each request that reads."""
    found = {}
    names = {**case.names, "cursor": case.cursor}
    for path in READS:
        for query in QUERIES.get(path, ("",)):
            url = (path + query).format(**names)
            answer = client.get(url)
            found[url] = answer.status_code if path in OWN else bare(answer)
    return found


def bare(answer: httpx.Response) -> Any:
    """Return an answer without what is of its request alone."""
    headers = {k: v for k, v in answer.headers.items() if k not in _OF_THE_REQUEST}
    content: Any = answer.content
    kind = answer.headers.get("content-type", "")
    if "json" in kind and "ndjson" not in kind:
        content = lasting(answer.json())
        if answer.url.path.endswith("/resume") and answer.is_success:
            content["message"].pop("created_at")  # it is made anew for each answer
    elif kind == "application/zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
    elif kind.startswith(_EVENTS):
        content = answer.text
    return answer.status_code, headers, content


def lasting(value: Any) -> Any:
    """Return JSON without what each look changes."""
    if isinstance(value, dict):
        return {k: lasting(v) for k, v in value.items() if k not in OF_THE_MOMENT}
    return [lasting(one) for one in value] if isinstance(value, list) else value


def agree(case: Case) -> dict[str, Any]:
    """Fail unless the replicas say the same now, the one that did not write first."""
    first, second = seen(case, case.here), seen(case, case.there)
    differing = [line for url in first for line in differences(url, first[url], second[url])]
    assert not differing, "\n".join(differing)
    return first


def differences(where: str, first: Any, second: Any) -> list[str]:
    """Return a line for each value in which two answers differ."""
    if type(first) is type(second) and isinstance(first, dict) and first.keys() == second.keys():
        return [x for k in first for x in differences(f"{where} {k}", first[k], second[k])]
    if isinstance(first, list | tuple) and len(first) == len(second):
        return [
            x
            for i, (a, b) in enumerate(zip(first, second, strict=True))
            for x in differences(f"{where} {i}", a, b)
        ]
    return [] if first == second else [f"{where}: {first!r:.300} != {second!r:.300}"]


def test_what_was_made_at_one_replica_is_the_same_at_both(case: Case) -> None:
    for url, answer in agree(case).items():
        status = answer if isinstance(answer, int) else answer[0]
        is_there = not url.startswith("/archive/")
        assert (status < 300) is is_there, (url, answer)


# -- what changes something ------------------------------------------------------------------------


def _json(**body: Any) -> Plan:
    return lambda case: {"json": body}


def _nothing(case: Case) -> Request:
    return {}


def _after(path: str, request: Plan = _nothing, method: str = "POST", **first: Any) -> Plan:
    """Do something where all was made, before."""

    def plan(case: Case) -> Request:
        case.did(method, path.format(**case.names), **first)
        return request(case)

    return plan


def _of_external_run(case: Case) -> Request:
    run = case.did("POST", f"/sessions/{case.session_id}/runs", json={"agent": "external"})
    return {"names": {"run_id": run["run_id"]}}


def _events(case: Case) -> Request:
    run_id = _of_external_run(case)["names"]["run_id"]
    events = [
        {"type": "token", "content": "Grass", "run_id": run_id},
        {"type": "complete", "run_id": run_id},
    ]
    return {"json": events}


def _inputs(case: Case) -> Request:
    turn = {"session_id": case.session_id, "message": "Ask", "agent": "asking"}
    case.did("POST", "/chat", json=turn, headers=WAITING)
    [request] = case.did("GET", f"/sessions/{case.session_id}")["open_requests"]
    return {"json": {"answers": {request["request_id"]: {"approved": True}}}, "headers": WAITING}


def _select(case: Case) -> Request:
    turn = {
        "session_id": case.session_id,
        "message": "Otherwise",
        "edit_message_id": case.message_id,
    }
    case.did("POST", "/chat", json=turn, headers=WAITING)
    branches = case.did("GET", f"/sessions/{case.session_id}/branches")["branches"]
    [other] = [one["branch_id"] for one in branches if not one["current"]]
    return {"names": {"branch_id": other}}


def _import(case: Case) -> Request:
    exported = case.did("GET", f"/sessions/{case.other}/export?format=json")
    return {"json": exported, "params": {"id": "new"}}


def _file(case: Case) -> Request:
    made = case.did("POST", "/files", content=b"nobody's")
    return {"names": {"file_id": made["file_id"]}}


def _restore(case: Case) -> Request:
    case.did("POST", f"/sessions/{case.session_id}/archive")
    return {"json": {"session_ids": [case.session_id]}}


def _response_to_cancel(case: Case) -> Request:
    run_id = _of_external_run(case)["names"]["run_id"]
    return {"names": {"response_id": response_id(case.session_id, run_id)}}


def _ai_sdk(case: Case) -> Request:
    words = [{"type": "text", "text": "Hello!"}]
    return {
        "json": {"id": case.session_id, "message": {"id": "u-1", "role": "user", "parts": words}}
    }


def _ag_ui(case: Case) -> Request:
    message = {"id": "u-1", "role": "user", "content": "Hello!"}
    body = {"threadId": case.session_id, "runId": "run-1", "messages": [message]}
    return {"json": {**body, "tools": [], "context": [], "state": {}, "forwardedProps": {}}}


def _last_item(case: Case) -> Request:
    url = f"/sessions/{case.session_id}/messages"
    case.did("POST", url, json=said("Forget this"))
    [last] = case.did("GET", f"{url}?limit=1&order=desc")["messages"]
    return {"names": {"item_id": last["id"]}}


def _connection(case: Case) -> Request:
    raise NotImplementedError("a test of its own")


def _of_operator(case: Case) -> Request:
    return {"by": "operator"}


ONE = "/sessions/{session_id}"
WRITES: dict[str, Plan] = {
    "POST /chat": lambda case: {
        "json": {"session_id": case.session_id, "message": "And more?"},
        "headers": WAITING,
    },
    "DELETE /sessions/{session_id}/connections/{connection_id}": _connection,
    "POST /sessions/{session_id}/events": _events,
    "POST /sessions/{session_id}/runs": _json(agent="external"),
    "POST /sessions/{session_id}/runs/{run_id}/cancel": _of_external_run,
    "POST /sessions/{session_id}/cancel": _of_external_run,
    "POST /stop/{session_id}": _of_external_run,
    "POST /sessions/{session_id}/inputs": _inputs,
    "POST /sessions/{session_id}/messages": lambda case: {"json": said("Hello again")},
    "POST /files": lambda case: {"content": b"a file"},
    "DELETE /files/{file_id}": _file,
    "POST /sessions/{session_id}/regenerate": lambda case: {"json": {}, "headers": WAITING},
    "POST /sessions/{session_id}/branches/{branch_id}/select": _select,
    "POST /sessions": lambda case: {"json": {"id": f"{case.user}-new", "title": "new plans"}},
    "PATCH /sessions/{session_id}": _json(title="changed plans"),
    "DELETE /sessions/{session_id}": _nothing,
    "POST /sessions/{session_id}/close": _nothing,
    "POST /sessions/{session_id}/reopen": _after(f"{ONE}/close"),
    "POST /sessions/{session_id}/archive": _nothing,
    "POST /sessions/{session_id}/restore": _after(f"{ONE}/archive"),
    "POST /archive": lambda case: {"json": {"session_ids": [case.session_id, case.other]}},
    "POST /archive/restore": _restore,
    "DELETE /archive/{session_id}": _after(f"{ONE}/archive"),
    "POST /sessions/{session_id}/export": lambda case: {
        "json": {"format": "json", "path": f"{case.user}.json"}
    },
    "POST /export": lambda case: {"json": {"session_ids": [case.session_id, case.other]}},
    "POST /import": _import,
    "POST /sessions/{session_id}/shares": _json(user_id="somebody"),
    "DELETE /sessions/{session_id}/shares/{share_id}": _nothing,
    "POST /webhooks": _json(url="https://hooks.example.com/", events=["session.deleted"]),
    "PATCH /webhooks/{webhook_id}": _json(enabled=False),
    "DELETE /webhooks/{webhook_id}": _nothing,
    "POST /webhooks/{webhook_id}/rotate": _json(),
    "POST /webhooks/{webhook_id}/test": _nothing,
    "POST /sessions/{session_id}/fork": lambda case: {"json": {"new_id": f"{case.user}-f"}},
    "POST /sessions/{session_id}/merge": lambda case: {"json": {"source_id": case.other}},
    "PUT /sessions/{session_id}/summary": _json(summary="other plans"),
    "POST /sessions/{session_id}/summary": _json(),
    "DELETE /sessions/{session_id}/summary": _nothing,
    "PUT /sessions/{session_id}/extensions": _json(custom={"theme": "dark"}),
    "PATCH /sessions/{session_id}/extensions": _json(custom={"theme": "light"}),
    "PUT /sessions/{session_id}/extensions/{name}": _json(config={"a": 1}, enabled=False),
    "DELETE /sessions/{session_id}/extensions/{name}": _nothing,
    "PUT /sessions/{session_id}/todo": _json(content="water it again"),
    "POST /cleanup": _json(before="2099-01-01T00:00:00Z"),
    "DELETE /users/{user_id}": _of_operator,
    "POST /sessions/{session_id}/ticket": _nothing,
    "POST /login": _nothing,
    "POST /logout": _nothing,
    "POST /ag-ui/{agent}": _ag_ui,
    "POST /ag-ui/{agent}/stop/{threadId}": _of_external_run,
    "POST /ag-ui/{agent}/connect": lambda case: {"json": {"threadId": case.session_id}},
    **{f"POST /ai-sdk/{version}chat": _ai_sdk for version in ("", "v6/", "v7/")},
    **{
        f"POST /ai-sdk/{version}chat/{{session_id}}/stop": _of_external_run
        for version in ("", "v6/", "v7/")
    },
    "POST /openai/v1/responses": lambda case: {
        "json": {
            "model": "default",
            "input": "Hello!",
            "conversation": conversation_id(case.session_id),
        }
    },
    "DELETE /openai/v1/responses/{response_id}": _nothing,
    "POST /openai/v1/responses/{response_id}/cancel": _response_to_cancel,
    "POST /openai/v1/conversations": _json(metadata={"topic": "bamboo"}),
    "POST /openai/v1/conversations/{conversation_id}": _json(metadata={"topic": "bamboo"}),
    "DELETE /openai/v1/conversations/{conversation_id}": _nothing,
    "POST /openai/v1/conversations/{conversation_id}/items": _json(
        items=[{"type": "message", "role": "user", "content": "Hello!"}]
    ),
    "DELETE /openai/v1/conversations/{conversation_id}/items/{item_id}": _last_item,
}
"""What each route that changes something is asked."""

CHANGES_NOTHING = frozenset(
    {
        "POST /sessions/{session_id}/export",  # a file of the operator's
        "POST /export",
        "POST /webhooks/{webhook_id}/test",
        "POST /sessions/{session_id}/ticket",
        "POST /login",
        "POST /logout",
        "POST /ag-ui/{agent}/connect",
    }
)
"""What is read is the same before and after these."""

CHANGING = [
    (method, path.removeprefix("/api/v1"), operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in ((name.upper(), one) for name, one in operations.items())
    if method != "GET"
]


def test_a_message_is_found_at_both(case: Case) -> None:
    text = {"q": "water lily", "archived": "include"}
    message = said("A water lily")
    sent = case.there.post(f"/sessions/{case.session_id}/messages", json=message)
    assert sent.status_code == 201
    for client in (case.here, case.there):

        def found(client: httpx.Client = client) -> list[Any]:
            results: list[Any] = client.get("/search", params=text).json()["results"]
            return results

        [one] = until(found, "it is found")
        assert one["session_id"] == case.session_id
    sent = case.there.delete(f"/sessions/{case.session_id}")
    assert sent.status_code == 204
    assert case.here.get("/search", params=text).json()["results"] == []


def test_there_is_a_plan_for_every_route() -> None:
    known = set(WRITES) | {f"GET {path}" for path in (*READS, *STREAMS, *LATER)}
    outside = {("GET", "/"), ("GET", "/metrics"), ("GET", "/health/live"), ("GET", "/health/ready")}
    asked = {f"{m} {path.removeprefix('/api/v1')}" for m, path in set(OPERATIONS) - outside}
    assert asked == known, "say here how each route is asked"
    assert len(ABOUT_ONE) + len(OTHERS) == len(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        pytest.param(*one, id=f"{one[0]} {one[1]}")
        for one in CHANGING
        if WRITES.get(f"{one[0]} {one[1]}") is not _connection
    ],
)
def test_what_one_replica_has_acknowledged_the_other_shows(
    case: Case, method: str, path: str, operation: dict[str, Any]
) -> None:
    name = f"{method} {path}"
    request = WRITES[name](case)
    names = {**case.names, **request.pop("names", {})}
    client = case.operator if request.pop("by", None) else case.there
    before = seen(case, case.here)
    takes_key = any(one["name"] == "idempotency-key" for one in operation.get("parameters", ()))
    if takes_key:
        request["headers"] = {**request.get("headers", {}), "Idempotency-Key": "once"}
    url = path.format(**names)
    answer = client.request(method, url, **request)
    assert answer.is_success, answer.text
    if answer.headers.get("content-type", "").startswith(_EVENTS):
        # Whether a stream is or was open is known to the others a moment later.
        until(lambda: seen(case, case.here) == seen(case, case.there), "the stream's end is known")
    after = agree(case)
    assert (after != before) is (name not in CHANGES_NOTHING)
    if takes_key:
        again = case.here.request(method, url, **request)
        if not path.startswith(("/openai/", "/ai-sdk/")) or path.endswith("/stop"):
            assert again.headers["idempotency-replayed"] == "true"
        if answer.headers.get("content-type", "").startswith(_EVENTS):
            assert again.headers.get("run-id") == answer.headers.get("run-id")
        else:
            assert differences(url, bare(answer)[::2], bare(again)[::2]) == []
        assert seen(case, case.there) == after


# -- what lasts ------------------------------------------------------------------------------------


def test_a_position_of_one_replica_is_one_of_the_other(case: Case) -> None:
    """What was streamed by the one before is gone on with by the other, without a gap."""
    url = f"/stream/{case.session_id}"
    run_id = case.names["run_id"]
    until_end = {"until": "complete", "run_id": run_id}
    texts = [
        client.get(url, params={**until_end, "from": "start"}).text
        for client in (case.here, case.there)
    ]
    here, there = ([one for one in parse_frames(text.encode())[0] if one.id] for text in texts)
    assert [one.data for one in here if "seq" in one.data] == [
        one.data for one in there if "seq" in one.data
    ]
    middle = [one for one in here if "seq" in one.data][3]
    rest = case.there.get(url, params=until_end, headers={"Last-Event-ID": str(middle.id)})
    seqs = [one.data["seq"] for one in parse_frames(rest.content)[0] if "seq" in one.data]
    assert seqs[0] == middle.data["seq"] + 1


@pytest.mark.parametrize("path", ["/ai-sdk/chat", "/ai-sdk/v6/chat", "/ai-sdk/v7/chat"])
def test_a_run_of_one_replica_is_resumed_and_stopped_at_the_other(case: Case, path: str) -> None:
    run_id = case.hold()
    with case.there.stream("GET", f"{path}/{case.session_id}/stream") as resumed:
        assert resumed.status_code == 200
        stopped = case.there.post(f"{path}/{case.session_id}/stop")
        assert [one["status"] for one in stopped.json()["runs"]] == ["cancelled"]
        text = "".join(resumed.iter_text())
    assert text.endswith("data: [DONE]\n\n")
    for client in (case.here, case.there):
        run = client.get(f"/sessions/{case.session_id}/runs/{run_id}").json()
        assert run["status"] == "cancelled"


def test_a_repeat_at_the_other_replica_attaches_to_the_same_run(case: Case) -> None:
    turn = {"session_id": case.session_id, "message": "Once", "agent": "held"}
    once = {"Idempotency-Key": "once"}
    answers = [one.post("/chat", json=turn, headers=once) for one in (case.here, case.there)]
    assert answers[0].json() == answers[1].json()
    assert answers[1].headers["idempotency-replayed"] == "true"
    page = case.there.get(f"/sessions/{case.session_id}/runs").json()
    assert len(page["runs"]) == 2
    assert case.there.post(f"/sessions/{case.session_id}/cancel").status_code == 200


def test_who_waits_at_one_replica_is_woken_by_the_other(case: Case) -> None:
    one = f"/sessions/{case.session_id}"
    run_id = case.hold()
    position = case.did("GET", f"/sessions/{case.other}")["position"]
    tail = case.here.get(f"/ds/{case.other}?offset=now").headers["stream-next-offset"]
    polls: dict[str, Request] = {
        f"{one}/runs/{run_id}": {"headers": WAITING},
        f"/sessions/{case.other}/events": {"params": {"after": position, "wait": 60}},
        f"/ds/{case.other}": {"params": {"offset": tail, "live": "long-poll"}},
        "/changes": {"params": {"after": case.did("GET", "/changes")["next"], "wait": 60}},
    }
    with ThreadPoolExecutor(len(polls)) as threads:
        answers = [threads.submit(partial(case.here.get, url, **how)) for url, how in polls.items()]
        sent = case.there.post(f"/sessions/{case.other}/messages", json=said("Wake up"))
        assert sent.status_code == 201
        assert case.there.post(f"{one}/runs/{run_id}/cancel").status_code == 200
        run, events, log, changes = (one.result() for one in answers)
    assert run.json()["status"] == "cancelled"
    assert [one["type"] for one in events.json()["events"]] == ["message"]
    assert [one["type"] for one in log.json()] == ["message"]
    assert changes.json()["changes"]


def test_the_etag_of_one_replica_is_that_of_the_other(case: Case) -> None:
    url = f"/sessions/{case.session_id}"
    etag = case.here.get(url).headers["etag"]
    assert case.there.get(url, headers={"If-None-Match": etag}).status_code == 304
    known = {"If-Match": etag}
    assert case.there.patch(url, json={"title": "mine"}, headers=known).status_code == 200
    refused(case.here.patch(url, json={"title": "late"}, headers=known), 412, "precondition-failed")
    refused(case.here.delete(url, headers=known), 412, "precondition-failed")
    assert case.here.get(url, headers={"If-None-Match": etag}).json()["title"] == "mine"


def test_a_file_of_one_replica_is_read_at_the_other_in_pieces(case: Case) -> None:
    url = f"/files/{case.names['file_id']}"
    pieces = [
        case.there.get(url, headers={"Range": f"bytes={start}-{start + 3999}"})
        for start in range(0, 10_000, 4000)
    ]
    assert [one.status_code for one in pieces] == [206] * 3
    assert b"".join(one.content for one in pieces) == b"0123456789" * 1000


def test_credentials_of_one_replica_hold_and_end_at_the_other(case: Case) -> None:
    url = f"/sessions/{case.session_id}"
    ticket = case.did("POST", f"{url}/ticket")["ticket"]
    cookie = case.here.post("/login").headers["set-cookie"].partition(";")[0]
    with case.pair.clients() as both:
        for nobody in both:
            assert nobody.get(url).status_code == 401
            for asked in ({"ticket": ticket}, {"share": case.share_token}):
                assert nobody.get(url, params=asked).json()["id"] == case.session_id
            assert nobody.get("/sessions", headers={"Cookie": cookie}).status_code == 200
        gone = case.there.delete(f"{url}/shares/{case.names['share_id']}")
        assert gone.status_code == 204
        for nobody in both:
            refused(nobody.get(url, params={"share": case.share_token}), 401, "unauthorized")


def test_a_connection_is_listed_and_ended_at_the_other_replica(case: Case) -> None:
    url = f"/sessions/{case.session_id}/connections"
    with case.here.stream("GET", f"/stream/{case.session_id}?connection_id=c-1") as stream:
        lines = stream.iter_lines()
        next(line for line in lines if '"open"' in line)
        until(lambda: case.there.get(url).json()["connections"], "it is listed")
        assert case.there.delete(f"{url}/c-1").status_code == 204
        assert [line for line in lines if '"goodbye"' in line]
    until(lambda: not case.there.get(url).json()["connections"], "it is listed no more")

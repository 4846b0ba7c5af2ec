"""The Python client where no process is needed: cuts at every byte, attempts, keys, the fold."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from typing_extensions import override

from bamboo_gateway_client import (
    AsyncGateway,
    Conversation,
    Gateway,
    GoneError,
    NotFoundError,
    ProtocolError,
    RateLimitedError,
    Retries,
    UnreachableError,
)
from bamboo_gateway_client.sse import EventTooLongError, SseReader
from tests.processes import Gateway as GatewayProcess
from tests.support.seen import Tree

AT_ONCE = Retries(attempts=4, seconds_max=0.0)
EVENTS = [
    {"type": "message", "seq": 1, "message_id": "m1", "message": {"id": "m1"}},
    {"type": "token", "seq": 2, "content": "Café \u2028 京都 👍", "run_id": "r"},
    {"type": "token", "seq": 3, "content": "\r\n", "run_id": "r"},
    {"type": "complete", "seq": 4, "run_id": "r"},
]


def gateway(answer: Callable[[httpx.Request], httpx.Response], **more: Any) -> Gateway:
    http = httpx.Client(transport=httpx.MockTransport(answer), trust_env=False, verify=False)
    return Gateway("http://gateway", http=http, **{"retries": AT_ONCE, **more})


def frames(after: int) -> bytes:
    """Return the rest of the session's stream behind a position, as the gateway writes it."""
    lines = [f'id: 9-{after}\nretry: 0\ndata: {{"type":"open","active_run_id":null}}\n\n']
    lines += [
        f"id: 9-{event['seq']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n: ping\n"
        for event in EVENTS[after:]
    ]
    return "".join(lines).encode()


class CutStream(httpx.SyncByteStream):
    """A body that breaks off after some bytes."""

    def __init__(self, body: bytes, at: int) -> None:
        self._body, self._at = body, at

    @override
    def __iter__(self) -> Iterator[bytes]:
        yield self._body[: self._at]
        if self._at < len(self._body):
            raise httpx.ReadError("cut")


def test_a_stream_that_is_cut_after_any_byte_gives_every_event_once() -> None:
    whole = len(frames(0))
    for at in range(whole + 1):
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request, at: int = at, asked: Any = asked) -> httpx.Response:
            asked.append(request)
            last = request.headers.get("Last-Event-ID", "9-0")
            if last == "9-4":
                return httpx.Response(204)
            body = frames(int(last.partition("-")[2]))
            cut = at if len(asked) == 1 else len(body)
            stream = CutStream(body, cut)
            headers = {"Content-Type": "text/event-stream"}
            return httpx.Response(200, headers=headers, stream=stream)

        stream = gateway(answer).session("s").stream(from_start=True, until_complete=True)
        assert list(stream) == EVENTS, f"cut after {at} of {whole} bytes"
        assert asked[0].url.params["from"] == "start"


def test_later_connections_say_their_position_alone() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 3:
            return httpx.Response(204)
        body = frames(2 if len(asked) == 2 else 0)[: -200 if len(asked) == 1 else None]
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body)

    stream = gateway(answer).session("s").stream(after="9-0")
    seen = [event["seq"] for event in stream]  # type: ignore[typeddict-item]
    assert seen == sorted(set(seen))
    assert [request.url.params.get("after") for request in asked] == ["9-0", None, None]
    assert all("Last-Event-ID" in request.headers for request in asked[1:])


def test_every_attempt_of_a_post_has_one_key_and_every_post_its_own() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) % 2:
            raise httpx.ReadError("lost")
        return httpx.Response(202, json={"run_id": "r", "session_id": "s"})

    client = gateway(answer)
    client.chat("One")
    client.session("s").chat("Two")
    client.session("s").chat("Three", idempotency_key="mine")
    first, again, second, second_again, *own = keys
    assert first == again != second == second_again
    assert own == ["mine", "mine"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_asked_again_and_then_an_error(status: int) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(status, headers={"Retry-After": "0"}, json={"code": "busy"})

    with pytest.raises(Exception, match="busy") as raised:
        gateway(answer).sessions.get("s")
    assert raised.value.status == status  # type: ignore[attr-defined]
    assert asked == ["/api/v1/sessions/s"] * 4


def test_a_pause_that_is_too_long_is_an_error_at_once() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(
            429, headers={"Retry-After": "86400"}, json={"code": "budget-reached"}
        )

    with pytest.raises(RateLimitedError) as raised:
        gateway(answer).session("s").chat("Hi")
    assert (raised.value.code, raised.value.retry_after_seconds) == ("budget-reached", 86400.0)
    assert len(asked) == 1


def test_a_delete_whose_answer_was_lost_is_done() -> None:
    def missing(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": "session-not-found"})

    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            raise httpx.ReadError("lost")
        return missing(request)

    gateway(answer).session("s").delete()

    with pytest.raises(NotFoundError):
        gateway(missing).session("s").delete()


def test_what_is_no_gateway_is_said_so() -> None:
    def page(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"Content-Type": "text/html"}, text="<html>")

    with pytest.raises(ProtocolError):
        gateway(page).sessions.get("s")
    with pytest.raises(ProtocolError):
        list(gateway(page).session("s").stream())

    def elsewhere(_: httpx.Request) -> httpx.Response:
        return httpx.Response(308, headers={"Location": "https://elsewhere/"})

    with pytest.raises(ProtocolError, match="https://elsewhere/"):
        gateway(elsewhere).session("s").chat("Hi")

    def nothing(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[Errno 111] Connection refused")

    with pytest.raises(UnreachableError, match="connection refused"):
        gateway(nothing).sessions.get("s")
    with pytest.raises(UnreachableError):
        list(gateway(nothing).session("s").stream())

    def position_gone(_: httpx.Request) -> httpx.Response:
        return httpx.Response(410, json={"code": "position-gone", "detail": "Load again."})

    with pytest.raises(GoneError, match="Load again"):
        list(gateway(position_gone).session("s").events(after="1-7"))


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://host/?a=b"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Gateway(url)


@pytest.mark.parametrize("piece", [b"data: xxxxx", b"data: xxxxx\n"])
def test_an_endless_event_does_not_fill_the_memory(piece: bytes) -> None:
    reader = SseReader(event_bytes_max=100)
    for _ in range(9):
        assert reader.feed(piece) == []
    with pytest.raises(EventTooLongError):
        reader.feed(piece * 10)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_asynchronous_client_works_in_both_event_loops(backend: str) -> None:
    if backend == "trio":
        pytest.importorskip("trio")

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.startswith("/api/v1/stream/"):
            headers = {"Content-Type": "text/event-stream"}
            return httpx.Response(200, headers=headers, content=frames(0))
        return httpx.Response(202, json={"run_id": "r", "session_id": "s", "position": "9-0"})

    async def talk() -> list[Any]:
        http = httpx.AsyncClient(transport=httpx.MockTransport(answer), verify=False)
        async with AsyncGateway("http://gateway", http=http, retries=AT_ONCE) as client, http:
            run = await client.chat("Hi")
            return [event async for event in run]

    assert anyio.run(talk, backend=backend) == [e for e in EVENTS if e.get("run_id") == "r"]


def test_the_messages_that_are_shown_are_the_logs_at_every_position(tmp_path: Path) -> None:
    """R3 for people: what is folded out of a stream is what `/messages` had answered there."""
    with GatewayProcess(tmp_path) as process, Gateway(process.url) as client:
        session = client.sessions.create("s")
        session.chat("One", options={"delay_ms": 0}).wait()
        session.regenerate(options={"delay_ms": 0, "text": "Other"}).wait()
        question = next(iter(session.messages()))["id"]
        session.edit(question, "Uno", options={"delay_ms": 0, "ask": True}).wait()
        (request,) = session.inputs()
        answered = session.answer({request["request_id"]: {"approved": True}})
        assert answered is not None
        answered.wait()
        session.chat("Fail", options={"delay_ms": 0, "fail": "no_luck"}).wait()
        held = session.chat("Stop", options={"delay_ms": 0, "hold": "middle"})
        next(event for event in held if event["type"] == "token")
        held.cancel()
        log: list[Any] = list(session.events())
        begin: Any = {"id": "s", "title": None, "active_run_id": None, "open_requests": []}
        conversation = Conversation(begin)
        for number, event in enumerate(log, 1):
            conversation.apply(event)
            assert not conversation.is_stale
            tree = Tree(log[:number])
            shown: list[Any] = conversation.messages
            made = [one for one in shown if one["id"] in {m["id"] for m in tree.path(tree.current)}]
            assert made == tree.path(tree.current)
            drafts = [one for one in shown if one not in made]
            assert all(one["status"] == "incomplete" for one in drafts)
        assert conversation.messages == list(session.messages())
        assert conversation.active_run_id is None
        assert conversation.open_requests == []
        assert session.conversation().messages == conversation.messages

"""The Python client with ids, keys, servers and threads that mean no good."""

import json
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway_client import (
    Conversation,
    Gateway,
    ProtocolError,
    RateLimitedError,
    Retries,
    UnreachableError,
)
from tests.clients.test_python_client import frames, gateway
from tests.processes import Gateway as GatewayProcess


@pytest.mark.parametrize("name", ["a/../../files", "a?limit=1", "a#b", "ä b", "%2e"])
def test_an_id_never_leads_to_another_route_r13(name: str) -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(202, json={"run_id": "r", "session_id": name})

    client = gateway(answer)
    client.sessions.get(name)
    client.session(name).delete()
    client.session(name).run(name).cancel()
    client.session("s").select_branch(name)
    client.files.delete(name)
    assert [path.count(b"/") for path in paths] == [4, 4, 7, 7, 4]
    assert not any(b"?" in path or b".." in path.split(b"/") for path in paths)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_what_is_no_part_of_a_path_is_no_id(name: str) -> None:
    client = gateway(lambda _: httpx.Response(500))
    for ask in (client.session, client.sessions.delete, client.files.delete):
        with pytest.raises(ValueError, match="is no id"):
            ask(name)


def test_a_key_is_read_without_its_line_end_and_never_shown() -> None:
    keys: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Authorization"])
        return httpx.Response(200, json={"agents": []})

    http = httpx.Client(transport=httpx.MockTransport(answer), verify=False)
    Gateway("http://gateway", "a-key\n", http=http).agents()
    assert keys == ["Bearer a-key"]
    for key in ("two lines\nsecret", "sécret", "secret\0"):
        with pytest.raises(ValueError, match="API key") as caught:
            Gateway("http://gateway", key, http=http)
        assert "cret" not in str(caught.value)


def test_a_drawing_goes_as_a_file_and_a_picture_as_a_picture() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.extend(part["type"] for part in json.loads(request.content)["message"]["content"])
        return httpx.Response(202, json={"run_id": "r", "session_id": "s"})

    files: Any = [{"file_id": "a", "media_type": kind} for kind in ("image/svg+xml", "image/png")]
    gateway(answer).chat("See", files=files)
    assert sent == ["text", "file", "image"]


def test_retry_after_may_be_a_date() -> None:
    tomorrow = format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)
    headers = {"Retry-After": tomorrow}
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        return httpx.Response(429, headers=headers, json={"code": "budget-reached"})

    with pytest.raises(RateLimitedError) as caught:
        gateway(answer).sessions.get("s")
    assert 86_000 < (caught.value.retry_after_seconds or 0) <= 86_400
    assert len(asked) == 1
    headers["Retry-After"] = "soon"
    with pytest.raises(RateLimitedError) as caught:
        gateway(answer).sessions.get("s")
    assert caught.value.retry_after_seconds is None


def test_a_page_in_between_is_a_lost_connection_and_at_first_it_is_no_gateway() -> None:
    asked: list[int] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(1)
        if len(asked) == 1:
            headers = {"Content-Type": "text/event-stream"}
            return httpx.Response(200, headers=headers, content=frames(2)[:-20])
        if len(asked) == 2:
            return httpx.Response(200, headers={"Content-Type": "text/html"}, text="<html>")
        return httpx.Response(204)

    events = list(gateway(answer).session("s").stream())
    assert [event["type"] for event in events] == ["token"]
    assert len(asked) == 3

    asked[:] = [0]  # the page comes first
    with pytest.raises(ProtocolError):
        list(gateway(answer).session("s").stream())


def test_a_wait_with_a_deadline_does_not_wait_for_a_silent_gateway() -> None:
    limits: list[float] = []

    def answer(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("timed out")

    with pytest.raises(UnreachableError):
        gateway(answer).session("s").run("r").wait(timeout_seconds=3)
    with pytest.raises(UnreachableError):
        gateway(answer).session("s").run("r").wait()
    assert limits[0] <= 4
    assert limits[1] == 60


def test_a_stream_that_another_thread_reads_ends_when_it_is_closed() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        client = Gateway(f"http://127.0.0.1:{port}", retries=Retries(attempts=1))
        stream = client.session("s").stream()
        read = threading.Event()
        ended: list[str] = []

        def loop() -> None:
            for _ in stream:
                read.set()
            ended.append("without an error")

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head + b'id: 1-1\ndata: {"type":"custom","seq":1}\n\n')
            assert read.wait(60)
            stream.close()
            thread.join(60)
        client.close()
        assert not thread.is_alive()
        assert ended == ["without an error"]


def test_a_conversation_that_begins_in_the_middle_of_a_run_is_loaded_once(tmp_path: Path) -> None:
    """The stream begins before the run, whose first messages are older than those loaded."""
    with GatewayProcess(tmp_path) as process, Gateway(process.url) as client:
        session = client.session("s")
        session.chat("Go", options={"hold": "middle", "delay_ms": 0, "text": "one two three four"})
        with session.stream() as events:
            next(event for event in events if event["type"] == "token")
        loaded: list[Conversation] = []
        for conversation in session.follow(newest=1):
            if not any(conversation is one for one in loaded):
                loaded.append(conversation)
            last = conversation.messages[-1]
            if len(loaded) > 3 or (last["role"] == "assistant" and "two" in str(last)):
                break
        assert len(loaded) == 1
        kept = list(session.messages())
        shown = [message["id"] for message in loaded[0].messages]
        assert shown[:-1] == [kept[-1]["id"]]

"""Clients that others wrote see every event of a session once, in order, across restarts (R2)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.e2e.watchers import Chromium, Curl, HttpxSse, NodeEventSource, Watcher
from tests.processes import CONTROL_TYPES, Gateway
from tests.support.waiting import until

SESSION = "watched"
# Everything that tears events in careless clients, or in a careless gateway.
AWKWARD = "a\nb\r\nc\u2028d\u2029e\u0085f: g\n\ndata: h\u0000\ufeff\U0001f38b\x0b\x0c"

Ending = Literal["SIGKILL", "SIGTERM"]


@contextmanager
def watching(watcher: Watcher, url: str) -> Iterator[Watcher]:
    watcher.start(url)
    try:
        yield watcher
    finally:
        watcher.stop()


def gateway_for(directory: Path, *origins: str) -> Gateway:
    settings = {
        # The run that is held in its middle ends the drain by being interrupted.
        "BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.2",
        "BAMBOO_CORS_ORIGINS": ",".join(origins),
    }
    return Gateway(directory, settings)


def tell(gateway: Gateway, name: str, value: object = None) -> None:
    event = {"type": "custom", "name": name, "value": value}
    gateway.call("POST", f"/sessions/{SESSION}/events", json=event)


def chat(gateway: Gateway, message: str, **options: object) -> None:
    gateway.call(
        "POST",
        "/chat",
        json={"message": message, "session_id": SESSION, "options": options},
        headers={"Prefer": "wait=20"} if "hold" not in options else {},
    )


def end(gateway: Gateway, ending: Ending) -> None:
    if ending == "SIGKILL":
        gateway.kill()
    else:
        assert gateway.stop() == 0


def live_through_restarts(gateway: Gateway, watcher: Watcher, ending: Ending) -> None:
    """Let a session live while it is watched: two restarts, one of them in the middle of a run."""

    def seen_all() -> bool:
        return {event["seq"] for event in gateway.events(SESSION)} <= {
            seen.event.get("seq") for seen in watcher.seen
        }

    chat(gateway, "first", delay_ms=0)
    until(seen_all, "the client has seen the first turn")
    chat(gateway, "second", delay_ms=0, hold="middle")
    until(
        lambda: any("You said: “second”" in said for said in _said_by_run(watcher)),
        "the client has seen the second turn's words",
    )
    end(gateway, ending)
    gateway.start()
    tell(gateway, "while the client is away, or just back", AWKWARD)
    until(seen_all, "the client is back")
    end(gateway, ending)
    gateway.start()
    chat(gateway, "third", delay_ms=0)
    tell(gateway, "end")
    watcher.wait_for_end()


def _said_by_run(watcher: Watcher) -> list[str]:
    words: dict[str, str] = {}
    for seen in list(watcher.seen):
        event = seen.event
        if event["type"] == "token":
            words[event["run_id"]] = words.get(event["run_id"], "") + event["content"]
    return list(words.values())


def assert_saw_everything_once(gateway: Gateway, watcher: Watcher) -> None:
    log = gateway.events(SESSION)
    epoch = gateway.call("GET", f"/sessions/{SESSION}")["position"].split("-")[0]
    seen = [seen for seen in watcher.seen if seen.event["type"] not in CONTROL_TYPES]
    assert [one.event for one in seen] == log
    assert [one.id for one in seen] == [f"{epoch}-{event['seq']}" for event in log]
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    ends = [event["type"] for event in log if event["type"] in {"complete", "error", "cancelled"}]
    assert ends == ["complete", "error", "complete"]
    # The same bytes whatever the client: what JSON text says must not depend on who reads it.
    assert AWKWARD in [json.loads(one.data).get("value") for one in seen]


def stream_url(gateway: Gateway) -> str:
    gateway.call("POST", "/sessions", json={"id": SESSION})
    return f"{gateway.url}/api/v1/stream/{SESSION}?from=start"


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_curl_with_last_event_id_misses_and_doubles_nothing(tmp_path: Path, ending: Ending) -> None:
    with gateway_for(tmp_path) as gateway, watching(Curl(), stream_url(gateway)) as watcher:
        live_through_restarts(gateway, watcher, ending)
        assert_saw_everything_once(gateway, watcher)


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_httpx_sse_with_last_event_id_misses_and_doubles_nothing(
    tmp_path: Path, ending: Ending
) -> None:
    with gateway_for(tmp_path) as gateway, watching(HttpxSse(), stream_url(gateway)) as watcher:
        live_through_restarts(gateway, watcher, ending)
        assert_saw_everything_once(gateway, watcher)


@pytest.mark.external_service
@pytest.mark.parametrize("package", ["eventsource", "event-source-polyfill"])
@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_the_eventsources_of_npm_come_back_by_themselves(
    tmp_path: Path, ending: Ending, package: str
) -> None:
    watcher = NodeEventSource(package)
    with gateway_for(tmp_path) as gateway, watching(watcher, stream_url(gateway)):
        live_through_restarts(gateway, watcher, ending)
        assert_saw_everything_once(gateway, watcher)


@pytest.mark.external_service
@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM"])
def test_the_eventsource_of_a_browser_comes_back_by_itself(tmp_path: Path, ending: Ending) -> None:
    watcher = Chromium()
    with gateway_for(tmp_path, watcher.origin) as gateway, watching(watcher, stream_url(gateway)):
        live_through_restarts(gateway, watcher, ending)
        assert_saw_everything_once(gateway, watcher)


@pytest.mark.external_service
@pytest.mark.parametrize("kind", ["npm", "browser"])
def test_an_eventsource_that_comes_back_while_the_gateway_drains_does_not_give_up(
    tmp_path: Path, kind: Literal["npm", "browser"]
) -> None:
    """EventSource ends for good at every answer but 200, so a drain may not answer 503 to it."""
    watcher = NodeEventSource() if kind == "npm" else Chromium()
    origins = [watcher.origin] if isinstance(watcher, Chromium) else []
    settings = {
        "BAMBOO_DRAIN_TIMEOUT_SECONDS": "200",
        "BAMBOO_CORS_ORIGINS": ",".join(origins),
    }
    with Gateway(tmp_path, settings) as gateway, watching(watcher, stream_url(gateway)):
        until(lambda: watcher.seen, "the stream is open")
        body = {"message": "hi", "session_id": "other", "options": {"hold": "start"}}
        gateway.call("POST", "/chat", json=body)
        gateway.interrupt()
        # The first goodbye ends the idle stream, the second the one that came back meanwhile.
        until(lambda: len(_kinds(watcher, "goodbye")) >= 2, "it came back into the drain")
        gateway.call("POST", "/sessions/other/cancel")
        assert gateway.exit_code() == 0
        gateway.start()
        tell(gateway, "end")
        watcher.wait_for_end()
        assert not _kinds(watcher, "gave-up")
        assert not _kinds(watcher, "reset")


def _kinds(watcher: Watcher, kind: str) -> list[str]:
    return [seen.data for seen in list(watcher.seen) if seen.event["type"] == kind]

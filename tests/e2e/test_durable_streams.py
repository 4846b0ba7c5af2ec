"""The official clients of Durable Streams read sessions whole, in order, across restarts (R2)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import durable_streams
import pytest

from tests.e2e.durable_streams import Live, NpmClient, PythonClient, read_all
from tests.e2e.test_clients_across_a_restart import (
    SESSION,
    Ending,
    chat,
    gateway_for,
    live_through_restarts,
    tell,
    watching,
)
from tests.e2e.watchers import Watcher
from tests.processes import Gateway
from tests.support.waiting import until

MAKERS: dict[str, Callable[[Live], Watcher]] = {"npm": NpmClient, "python": PythonClient}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with gateway_for(tmp_path) as running:
        yield running


def stream_of(gateway: Gateway) -> str:
    return f"{gateway.url}/api/v1/ds/{SESSION}"


def offset_of(gateway: Gateway, event: dict[str, Any]) -> str:
    epoch = gateway.call("GET", f"/sessions/{SESSION}")["position"].split("-")[0]
    return f"{epoch:>016}_{event['seq']:016}"


@pytest.mark.external_service
@pytest.mark.parametrize(
    ("client", "live", "ending"),
    [
        ("npm", "sse", "SIGKILL"),
        ("npm", "sse", "SIGTERM"),
        ("npm", "long-poll", "SIGKILL"),
        ("python", "sse", "SIGKILL"),
        ("python", "long-poll", "SIGKILL"),
        ("python", "false", "SIGKILL"),
    ],
)
def test_the_official_clients_miss_and_double_nothing_across_restarts(
    gateway: Gateway, client: Literal["npm", "python"], live: Live, ending: Ending
) -> None:
    gateway.call("POST", "/sessions", json={"id": SESSION})
    with watching(MAKERS[client](live), stream_of(gateway)) as watcher:
        live_through_restarts(gateway, watcher, ending)
        log = gateway.events(SESSION)
        assert [one.event for one in watcher.seen] == log
        assert watcher.seen[-1].id == offset_of(gateway, log[-1])


@pytest.mark.external_service
def test_the_npm_client_catches_up_and_knows_that_it_has(gateway: Gateway) -> None:
    chat(gateway, "first", delay_ms=0)
    tell(gateway, "end")
    with watching(NpmClient("false"), stream_of(gateway)) as watcher:
        watcher.wait_for_end()
        assert [one.event for one in watcher.seen] == gateway.events(SESSION)


def test_every_offset_resumes_behind_its_event_also_after_kill_9_archive_and_restore(
    gateway: Gateway,
) -> None:
    chat(gateway, "first", delay_ms=0)
    tell(gateway, "awkward", "a\u2028b\r\nevent: control\n\ndata: {}\n\n\u0000")
    url, log = stream_of(gateway), gateway.events(SESSION)
    live = PythonClient("sse")
    with watching(live, url):
        until(lambda: len(live.seen) == len(log), "the client has seen all")
    assert [one.event for one in live.seen] == log
    offsets = [one.id for one in live.seen]
    assert offsets == sorted(set(offsets))  # each its own, in the order of texts
    assert offsets == [offset_of(gateway, event) for event in log]

    def check() -> None:
        log = gateway.events(SESSION)  # archive and restore are events, too
        for event, offset in zip(log, offsets, strict=False):
            assert read_all(gateway.http, url, offset) == log[event["seq"] :]

    check()
    gateway.kill()
    gateway.start()
    check()
    gateway.call("POST", f"/sessions/{SESSION}/archive")
    check()
    gateway.call("POST", f"/sessions/{SESSION}/restore")
    check()


def test_an_offset_of_an_earlier_session_of_that_name_is_gone(gateway: Gateway) -> None:
    tell_once = {"type": "custom", "name": "only here"}
    gateway.call("POST", "/sessions", json={"id": SESSION})
    gateway.call("POST", f"/sessions/{SESSION}/events", json=tell_once)
    old = offset_of(gateway, gateway.events(SESSION)[-1])
    gateway.call("DELETE", f"/sessions/{SESSION}")
    gateway.call("POST", "/sessions", json={"id": SESSION})
    for live in (False, "long-poll", "sse"):
        with pytest.raises(durable_streams.DurableStreamError) as caught:
            durable_streams.stream(stream_of(gateway), offset=old, live=live, client=gateway.http)
        assert caught.value.status == 410
    assert "only here" not in json.dumps(read_all(gateway.http, stream_of(gateway)))

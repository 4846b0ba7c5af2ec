"""Sessions as Durable Streams over HTTP: what each kind of read answers, and who may read."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from bamboo_gateway.wires.durable_streams import routes
from tests.api.serving import SECONDS, Served, refused, serving
from tests.api.test_streams import Watcher, connections, custom
from tests.api.users import serving_users, user
from tests.support.settings import given_settings
from tests.support.waiting import until
from tests.wires.streams import messages, offsets, parsed

NEXT, UP_TO_DATE, CURSOR = "stream-next-offset", "stream-up-to-date", "stream-cursor"
GONE = "0000000000000001_0000000000000001"
WRONG = ("", "0", "1-1", "0,1", "%200", "%0A", "NOW", "-2", "0" * 33, "%F0%28", f"{GONE}%00")


def log_of(api: httpx.Client, session_id: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = api.get(
        f"/sessions/{session_id}/events", params={"limit": 1000}
    ).json()["events"]
    return events


@contextmanager
def live(served: Served, session_id: str, query: str = "offset=-1") -> Iterator[Watcher]:
    """Follow a session; it is deleted at the end, which ends the stream."""
    watcher = Watcher(served, f"/ds/{session_id}?live=sse&{query}")
    try:
        yield watcher
    finally:
        with served.client() as client:
            client.delete(f"/sessions/{session_id}")
        watcher.ended()


@pytest.fixture
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "LONG_POLL_SECONDS", 0.05)


# -- catch-up ---------------------------------------------------------------------------------


def test_a_catch_up_read_is_the_log_as_a_json_array(api: httpx.Client, session_id: str) -> None:
    custom(api, session_id, "a", {"text": "ä\u2028"})
    log, end = log_of(api, session_id), api.head(f"/ds/{session_id}").headers[NEXT]
    for query in ("", "?offset=-1", "?unknown=1&x&x", "?offset=-1&cursor=nonsense"):
        answer = api.get(f"/ds/{session_id}{query}")
        assert answer.status_code == 200
        assert answer.json() == log
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers[UP_TO_DATE] == "true"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "stream-closed" not in answer.headers
        assert answer.headers[NEXT] == end
    tail = api.get(f"/ds/{session_id}?offset={end}")
    assert (tail.text, tail.headers[NEXT]) == ("[]", end)
    assert tail.headers[UP_TO_DATE] == "true"


def test_a_long_log_is_read_in_parts(api: httpx.Client, session_id: str) -> None:
    for _ in range(2):
        batch = [{"type": "custom", "name": "n", "value": n} for n in range(600)]
        assert api.post(f"/sessions/{session_id}/events", json=batch).status_code == 201
    first = api.get(f"/ds/{session_id}")
    assert len(first.json()) == 1000
    assert UP_TO_DATE not in first.headers
    rest = api.get(f"/ds/{session_id}", params={"offset": first.headers[NEXT]})
    assert [one["seq"] for one in first.json() + rest.json()] == list(range(1, 1202))
    assert rest.headers[UP_TO_DATE] == "true"


def test_the_etag_of_a_part_is_304_until_something_is_new(
    api: httpx.Client, session_id: str
) -> None:
    first = api.get(f"/ds/{session_id}")
    known = {"If-None-Match": first.headers["etag"]}
    again = api.get(f"/ds/{session_id}", headers=known)
    assert again.status_code == 304
    assert again.headers[NEXT] == first.headers[NEXT]
    other = api.get(f"/ds/{session_id}?offset={first.headers[NEXT]}", headers=known)
    assert other.status_code == 200
    custom(api, session_id, "new")
    assert api.get(f"/ds/{session_id}", headers=known).status_code == 200


def test_now_is_the_end_and_head_names_it(api: httpx.Client, session_id: str) -> None:
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    now = api.get(f"/ds/{session_id}?offset=now")
    assert (now.text, now.headers[NEXT], now.headers[UP_TO_DATE]) == ("[]", end, "true")
    assert "etag" not in now.headers
    for query in ("", "?offset=now&live=sse", "?offset=-1&live=long-poll"):  # it never waits
        head = api.head(f"/ds/{session_id}{query}")
        assert (head.status_code, head.headers[NEXT]) == (200, end)
        assert head.headers["cache-control"] == "no-store"
        assert head.headers["content-type"] == "application/json"


@pytest.mark.parametrize("query", [f"offset={each}" for each in WRONG])
def test_a_malformed_offset_is_400(api: httpx.Client, session_id: str, query: str) -> None:
    for mode in ("", "&live=long-poll", "&live=sse"):
        refused(api.get(f"/ds/{session_id}?{query}{mode}"), 400, "malformed")


@pytest.mark.parametrize(
    "query", ["live=sse", "live=long-poll", "offset=-1&live=x", "offset=-1&offset=-1"]
)
def test_a_wrong_query_is_400(api: httpx.Client, session_id: str, query: str) -> None:
    refused(api.get(f"/ds/{session_id}?{query}"), 400, "malformed")
    refused(api.get("/ds/%2e%2e?offset=-1"), 400, "malformed")


@pytest.mark.parametrize("mode", ["", "&live=long-poll", "&live=sse"])
def test_an_offset_that_the_log_does_not_have_is_410(
    api: httpx.Client, session_id: str, mode: str
) -> None:
    """R4: of another epoch, and beyond the end."""
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    beyond = f"{end[:-1]}9"
    for offset in (GONE, beyond, "9" * 16 + "_" + "9" * 16):
        refused(api.get(f"/ds/{session_id}?offset={offset}{mode}"), 410, "position-gone")
    assert connections(api, session_id) == set()


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_writing_is_405_and_changes_nothing(
    api: httpx.Client, session_id: str, free_id: str, method: str
) -> None:
    before = log_of(api, session_id)
    for name in (session_id, free_id):
        answer = api.request(method, f"/ds/{name}", json=[{"a": 1}])
        refused(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == "GET, HEAD"
    assert log_of(api, session_id) == before
    refused(api.get(f"/ds/{free_id}"), 404, "session-not-found")


# -- long poll --------------------------------------------------------------------------------


@pytest.mark.usefixtures("short_polls")
def test_a_long_poll_in_vain_is_204_with_a_greater_cursor_each_time(
    api: httpx.Client, session_id: str
) -> None:
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    seen = -1
    for offset in (end, "now", end):
        answer = api.get(f"/ds/{session_id}?live=long-poll&offset={offset}&cursor={seen}")
        assert (answer.status_code, answer.headers[NEXT]) == (204, end)
        assert answer.headers[UP_TO_DATE] == "true"
        assert int(answer.headers[CURSOR]) > seen
        seen = int(answer.headers[CURSOR])
    custom(api, session_id, "new")
    answer = api.get(f"/ds/{session_id}?live=long-poll&offset={end}&cursor={seen}")
    assert (answer.status_code, [one["name"] for one in answer.json()]) == (200, ["new"])
    assert int(answer.headers[CURSOR]) > seen


@pytest.mark.parametrize("offset", ["now", None])
def test_a_long_poll_wakes_with_the_next_event(
    served: Served, api: httpx.Client, session_id: str, offset: str | None
) -> None:
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    answers: list[httpx.Response] = []

    def poll() -> None:
        with served.client() as client:
            answers.append(client.get(f"/ds/{session_id}?live=long-poll&offset={offset or end}"))

    thread = threading.Thread(target=poll)
    thread.start()
    channels = served.app.state.manager._hub._channels
    until(lambda: channels.get(session_id) is not None, "it waits")
    custom(api, session_id, "woken")
    thread.join(SECONDS)
    assert [one["name"] for one in answers[0].json()] == ["woken"]
    assert answers[0].headers[UP_TO_DATE] == "true"


# -- SSE --------------------------------------------------------------------------------------


def test_a_live_stream_pairs_data_with_control_and_says_once_that_it_has_caught_up(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    custom(api, session_id, "before")
    with live(served, session_id) as watcher:
        watcher.until_frame("upToDate")
        custom(api, session_id, "after")
        watcher.until_frame('"after"')
        watcher.until_frame(api.get(f"/ds/{session_id}").headers[NEXT])
        assert messages(watcher.text) == log_of(api, session_id)
        frames = parsed(watcher.text)
        assert [kind for kind, _ in frames] == [
            *2 * ["data", "control"],
            "control",
            "data",
            "control",
        ]
        assert [data.get("upToDate") for kind, data in frames if kind == "control"] == [
            *(None, None, True, None)
        ]
        assert watcher.headers["content-type"] == "text/event-stream"
        assert "no-store" in watcher.headers["cache-control"]
        assert connections(api, session_id) == {watcher.headers["connection-id"]}
    assert ": goodbye deleted" in watcher.text


def test_a_live_stream_from_now_begins_with_its_offset(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    run = {"agent": "external", "run_id": f"run-{session_id}"}
    api.post(f"/sessions/{session_id}/runs", json=run)  # an active run moves no begin
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    with live(served, session_id, "offset=now&cursor=999999999") as watcher:
        watcher.until_frame("upToDate")
        assert parsed(watcher.text) == [
            (
                "control",
                {"streamNextOffset": end, "streamCursor": "1000000000", "upToDate": True},
            )
        ]
        custom(api, session_id, "new")
        watcher.until_frame('"new"')
        assert [one["name"] for one in messages(watcher.text)] == ["new"]


@pytest.mark.usefixtures("short_polls")
@pytest.mark.parametrize("way", ["close", "archive"])
def test_a_closed_session_is_read_to_its_end_and_never_closed_for_good(
    served: Served, api: httpx.Client, session_id: str, way: str
) -> None:
    """It may be reopened, so the protocol's `Stream-Closed` would be wrong."""
    custom(api, session_id, "last")
    assert api.post(f"/sessions/{session_id}/{way}").status_code == 200
    read = Watcher(served, f"/ds/{session_id}?live=sse&offset=-1")
    read.ended()
    assert messages(read.text) == log_of(api, session_id)
    assert parsed(read.text)[-1][1]["upToDate"]
    end = offsets(read.text)[-1]
    again = Watcher(served, f"/ds/{session_id}?live=sse&offset={end}")
    again.ended()
    assert [kind for kind, _ in parsed(again.text)] == ["control"]
    assert offsets(again.text) == [end]
    polled = api.get(f"/ds/{session_id}?live=long-poll&offset={end}")
    assert polled.status_code == 204
    assert "losed" not in read.text.lower().replace("goodbye closed", "").replace('"closed"', "")
    api.post(f"/sessions/{session_id}/{'reopen' if way == 'close' else 'restore'}")
    assert (
        api.get(f"/ds/{session_id}?offset={end}").json()
        == log_of(api, session_id)[int(end[-16:]) :]
    )


def test_a_client_at_the_end_of_a_closed_session_sees_it_reopened(
    served: Served, api: httpx.Client, session_id: str
) -> None:
    api.post(f"/sessions/{session_id}/close")
    end = api.get(f"/ds/{session_id}").headers[NEXT]
    opened: list[Watcher] = []
    thread = threading.Thread(
        target=lambda: opened.append(Watcher(served, f"/ds/{session_id}?live=sse&offset={end}"))
    )
    thread.start()
    channels = served.app.state.manager._hub._channels
    until(lambda: channels.get(session_id) is not None, "it waits")
    api.post(f"/sessions/{session_id}/reopen")
    thread.join(SECONDS)
    custom(api, session_id, "new")
    opened[0].until_frame('"new"')
    assert [one["type"] for one in messages(opened[0].text)] == ["state_change", "custom"]
    api.delete(f"/sessions/{session_id}")
    opened[0].ended()


def test_the_limits_and_clocks_of_streams_hold() -> None:
    with (
        serving(max_connections=1, heartbeat_interval_seconds=0.05) as served,
        served.client() as api,
    ):
        api.post("/sessions", json={"id": "s"})
        with live(served, "s") as watcher:
            watcher.until(": ping\n")
            answer = api.get("/ds/s?live=sse&offset=-1")
            refused(answer, 503, "too-many-connections")
            assert answer.headers["x-content-type-options"] == "nosniff"
            api.delete(f"/sessions/s/connections/{watcher.headers['connection-id']}")
            watcher.ended()
            assert ": goodbye superseded" in watcher.text
        api.post("/sessions", json={"id": "s"})
    with serving(stream_lifetime_seconds=0.02) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        ended = Watcher(served, "/ds/s?live=sse&offset=-1")
        ended.ended()
        assert parsed(ended.text)[-1][1]["upToDate"]


def test_a_drain_ends_live_streams_and_waits() -> None:
    with serving() as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        watcher = Watcher(served, "/ds/s?live=sse&offset=-1")
        answers: list[int] = []
        poll = threading.Thread(
            target=lambda: answers.append(
                httpx.get(
                    f"{served.url}/api/v1/ds/s?live=long-poll&offset=now",
                    trust_env=False,
                    timeout=SECONDS,
                ).status_code
            )
        )
        poll.start()
        channel = served.app.state.manager._hub._channels.get("s")
        until(lambda: channel._change_waiters, "it waits")
    watcher.ended()
    poll.join(SECONDS)
    assert ": goodbye shutdown" in watcher.text
    assert answers == [204]


# -- who may read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    ["", "?offset=now", f"?offset={GONE}", "?live=sse&offset=-1", "?live=long-poll&offset=-1"],
)
def test_a_session_of_another_user_is_404_in_every_mode(query: str) -> None:
    with (
        serving_users() as served,
        user(served, "alice") as alice,
        user(served, "bob") as bob,
    ):
        alice.post("/sessions", json={"id": "hers"})
        answers = [
            bob.request(m, f"/ds/{s}{query}") for m in ("GET", "HEAD") for s in ("hers", "none")
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert answers[0].text.replace("hers", "none") == answers[1].text


def test_tickets_share_links_and_the_prefix_hold() -> None:
    with serving(root_path="/bamboo", api_keys=("secret-key-of-the-operator",)) as served:
        key = {"Authorization": "Bearer secret-key-of-the-operator"}
        with served.client(headers=key) as api, served.client() as anybody:
            for name in ("s", "other"):
                api.post("/sessions", json={"id": name})
            ticket = api.post("/sessions/s/ticket").json()["ticket"]
            token = api.post("/sessions/s/shares", json={"link": True}).json()["token"]
            assert anybody.get("/ds/s").status_code == 401
            for credential in (f"ticket={ticket}", f"share={token}"):
                assert anybody.get(f"/ds/s?offset=-1&{credential}").json() == log_of(api, "s")
                assert anybody.get(f"/ds/other?{credential}").status_code == 404
            prefixed = f"{served.url}/bamboo/api/v1/ds/s"
            assert httpx.get(prefixed, headers=key, trust_env=False).json() == log_of(api, "s")


# -- the setting ------------------------------------------------------------------------------


def test_a_wire_that_is_switched_off_is_not_there() -> None:
    with serving(wires=()) as served, served.client() as api:
        api.post("/sessions", json={"id": "s"})
        url = f"{served.url}/api/v1/ds/s"
        refused(httpx.get(url, trust_env=False, timeout=SECONDS), 404, "not-found")
        assert "/api/v1/ds/{session_id}" not in api.get("/openapi.json").json()["paths"]
    with pytest.raises(ValueError, match=r"there is no wire 'durable'; there is .*durable-streams"):
        given_settings(wires="durable")


def test_nothing_of_a_wire_is_imported_when_it_is_switched_off() -> None:
    code = (
        "import sys; from bamboo_gateway.main import create_app; "
        "from bamboo_gateway.settings import Settings; "
        "create_app(Settings(storage_url='memory:', wires=())); "
        "sys.exit('bamboo_gateway.wires.durable_streams' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, timeout=SECONDS).returncode == 0
    )

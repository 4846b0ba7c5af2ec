"""`/metrics`: complete, true, and bounded whatever clients send."""

import asyncio
import gc
import re
import secrets
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi.routing import APIRoute

from bamboo_gateway.api.access_log import RequestLog, RequestRecord
from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.api.routing import ROUTERS
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.observability.histogram import Histogram
from bamboo_gateway.observability.metrics import FAMILIES, PREFIX
from bamboo_gateway.observability.prometheus import render_metrics
from bamboo_gateway.server import http1
from bamboo_gateway.wires.factory import wire_routers
from tests.api.serving import Served, raw, serving
from tests.faults.wire import Wire, hanging, rest_of
from tests.observability.scraping import Scrape, Series
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Reader, gateway
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

# Those that files do not have, and where they are.
OF_DATABASES = {
    "follower_events_total": "postgresql",
    "follower_looks_total": "postgresql",
    "store_commit_failures_total": "both",
    "store_database_bytes": "sqlite",
    "store_database_connections": "postgresql",
    "store_database_connections_idle": "postgresql",
    "store_database_outages_total": "postgresql",
    "store_heartbeat_age_seconds": "postgresql",
    "store_heartbeat_failures_total": "postgresql",
    "store_heartbeat_losses_total": "postgresql",
    "store_leader": "postgresql",
    "store_replica_deaths_total": "postgresql",
    "store_replicas": "postgresql",
    "store_replicas_dead": "postgresql",
    "store_unknown_outcomes_total": "postgresql",
}

# Those that a gateway without `bus_url` does not have.
OF_A_BUS = {name for name in FAMILIES if name.startswith("bus_")} | {"rate_checks_total"}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A gateway on files, with a second agent."""
    data_dir = tmp_path_factory.mktemp("data")
    agents = {"default": "demo:?delay_ms=0", "failing": "demo:?delay_ms=0&fail=out_of_words"}
    with serving(storage_url="jsonl:", data_dir=data_dir, agents=agents) as running:
        yield running


def say(api: httpx.Client, session_id: str, **more: object) -> str:
    """Run one whole turn; return the run's status."""
    turn = {"session_id": session_id, "message": "Hello!", **more}
    answer = api.post("/chat", json=turn, headers={"Prefer": "wait=60"})
    status: str = answer.json()["status"]
    return status


# -- complete ---------------------------------------------------------------------------------


def test_every_family_there_is_is_shown_and_no_other(served: Served) -> None:
    with served.client() as api:
        say(api, "all")
        api.get("/nowhere")
        api.get("/stream/all", params={"after": 0, "until": "complete"})
        raw(served.port, b"GET / HTTP/1.1\r\nX: " + b"y" * http1.HEAD_BYTES_MAX + b"\r\n\r\n")
    scrape = Scrape(served)
    shown = {name for name in scrape.kinds if not name.startswith("process_")}
    absent = OF_DATABASES.keys() | OF_A_BUS | {"jwks_fetches_total"}  # no identity provider is set
    here = {name: family for name, family in FAMILIES.items() if name not in absent}
    assert shown == {PREFIX + name.removesuffix("_total") for name in here}
    for name, family in here.items():
        assert scrape.kinds[PREFIX + name.removesuffix("_total")] == family.kind
    assert scrape.values[Series("process_open_fds", ())] > 0


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_databases_show_theirs(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> None:
    url = "sqlite:" if store == "sqlite" else request.getfixturevalue("postgres_url")
    with serving(storage_url=url, data_dir=tmp_path) as running, running.client() as api:
        say(api, "one")
        scrape = Scrape(running)
        counted = set(asyncio.run(running.app.state.manager.stats()))
    assert counted <= set(FAMILIES)
    of_this = {name for name, where in OF_DATABASES.items() if where in {store, "both"}}
    assert counted & OF_DATABASES.keys() == of_this
    for name in of_this:
        assert scrape.kinds[PREFIX + name.removesuffix("_total")] == FAMILIES[name].kind
    assert scrape.get("sessions") == 1
    assert scrape.get("store_disk_bytes", kind="logs") > 0
    assert scrape.get("store_commit_failures_total") == 0
    at_work = "store_database_bytes" if store == "sqlite" else "store_database_connections"
    assert scrape.get(at_work) > 0


def test_a_database_that_is_away_hides_only_what_is_read_from_it(
    tmp_path: Path, own_postgres: "PostgresServer"
) -> None:
    with own_postgres.database() as name, serving(
        storage_url=own_postgres.url(name), data_dir=tmp_path
    ) as running, running.client() as api:  # fmt: skip
        say(api, "one")
        own_postgres.stop()
        try:
            until(
                lambda: Scrape(running).get("store_database_outages_total") == 1,
                "the outage is counted",
            )
            scrape = Scrape(running)
        finally:
            own_postgres.start()
        assert "bamboo_sessions" not in scrape.kinds
        assert scrape.get("store_commits_total") > 0
        until(lambda: Scrape(running).get("sessions") == 1, "the database is back")


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (family.kind == "counter"), name
        assert family.help.endswith("."), name
        assert "|" not in family.help, name


def test_whatever_the_store_counts_has_a_family(served: Served) -> None:
    assert set(asyncio.run(served.app.state.manager.stats())) <= set(FAMILIES)


# -- true -------------------------------------------------------------------------------------


def test_a_turn_moves_the_counters_it_should(served: Served) -> None:
    with served.client() as api:
        say(api, "warm")
        before = Scrape(served)
        assert say(api, "turn") == "completed"
        assert say(api, "turn", agent="failing") == "failed"
        events = len(api.get("/sessions/turn/events", params={"limit": 1000}).json()["events"])
        after = Scrape(served)

    def moved(name: str, **labels: str) -> float:
        return after.get(name, **labels) - before.get(name, **labels)

    assert moved("requests_total", method="POST", route="/api/v1/chat", status="2xx") == 2
    assert moved("request_seconds_count", method="POST", route="/api/v1/chat") == 2
    assert moved("runs_started_total", agent="default") == 1
    assert moved("runs_started_total", agent="failing") == 1
    assert moved("runs_ended_total", agent="default", end="completed") == 1
    assert moved("runs_ended_total", agent="failing", end="failed") == 1
    assert moved("runs_ended_total") == 2
    assert moved("run_seconds_count", agent="default") == 1
    assert moved("sessions") == 1
    assert moved("store_events_total") == events
    commits = moved("store_commits_total")
    assert 0 < commits <= events
    assert moved("commit_seconds_count") == commits
    assert moved("store_batch_commits_sum") == commits
    assert moved("store_batch_commits_count") == moved("store_batches_total")
    assert moved("store_sync_seconds_count") == moved("store_batches_total")
    assert moved("store_journal_bytes_total") > 0
    assert moved("session_lookups_total", result="hit") > 0
    assert moved("session_lookups_total", result="miss") == 1
    assert after.get("disk_free_bytes") > 0
    assert after.get("store_disk_bytes", kind="journal") > 0
    assert after.get("ready") == 1


def test_refusals_are_counted_by_their_code_and_by_their_routes_template(served: Served) -> None:
    before = Scrape(served)
    with served.client() as api:
        api.get("/sessions/not-there")
        api.get("/sessions/not-there-either")
        api.get("/nowhere")
        api.put("/chat")
        api.head("/sessions/not-there")
    after = Scrape(served)

    def moved(name: str, **labels: str) -> float:
        return after.get(name, **labels) - before.get(name, **labels)

    template = "/api/v1/sessions/{session_id}"
    assert moved("problems_total", code="session-not-found") == 3
    assert moved("requests_total", method="GET", route=template, status="4xx") == 2
    assert moved("requests_total", method="HEAD", route=template, status="4xx") == 1
    assert moved("requests_total", method="GET", route="unmatched", status="4xx") == 1
    assert moved("requests_total", method="PUT", route="/api/v1/chat", status="4xx") == 1


def test_streams_are_counted_by_how_they_ended() -> None:
    with serving(agents={"default": "demo:?delay_ms=0"}) as served, served.client() as api:
        say(api, "s")
        api.get("/stream/s", params={"after": 0, "until": "complete"})
        leaving = Wire(served.port, "/stream/s?connection_id=leaving")
        older = Wire(served.port, "/stream/s?connection_id=twice")
        for wire in (leaving, older):
            wire.take_until(b'"open"')
        until(lambda: Scrape(served).get("streams_open") == 2, "two are open")
        newer = Wire(served.port, "/stream/s?connection_id=twice")
        older.take_until(b'"superseded"')
        leaving.sock.close()
        until(lambda: Scrape(served).get("streams_open") == 1, "two have ended")
        api.delete("/sessions/s")
        newer.take_until(b'"deleted"')
        until(lambda: Scrape(served).get("streams_open") == 0, "all have ended")
        scrape = Scrape(served)
        for wire in (older, newer):
            wire.sock.close()
    assert scrape.get("streams_opened_total") == 4
    for reason in ("complete", "left", "superseded", "deleted"):
        assert scrape.get("streams_ended_total", reason=reason) == 1
    assert scrape.get("streams_ended_total") == 4


async def test_readers_behind_the_event_queue_are_seen_as_lag_and_as_reads_of_the_log() -> None:
    async with gateway() as gate:
        await gate.chat("s", run_id="r")
        gate.agent.do("r", Complete())
        await gate.ended("r")
        seq = gate.live().durable_seq
        late, there = await gate.reader(from_start=True), await gate.reader()
        lag = (await gate.manager.stats())["stream_lag_events"]
        assert lag == {("0.5",): 0, ("0.9",): seq, ("0.99",): seq, ("1",): seq}
        assert (await gate.manager.stats())["stream_log_reads_total"] == 0
        gate.live().channel.queue._bodies.clear()  # as if much had followed
        await late.take()
        await late.take()
        assert (await gate.manager.stats())["stream_log_reads_total"] == 1
        assert (await gate.manager.stats())["stream_lag_events"]["1",] == 0
        late.close()
        there.close()
        assert (await gate.manager.stats())["stream_lag_events"]["1",] == 0


async def test_a_scrape_calls_nothing_for_each_stream() -> None:
    async with gateway() as gate:
        await gate.chat("s", run_id="r")
        readers: list[Reader] = []
        calls = []
        await gate.manager.stats()  # the first one sets things up
        for _ in range(2):
            readers += [await gate.reader() for _ in range(20)]
            calls.append(calls_of(partial(_finish, gate.manager.stats())))
        assert (await gate.manager.stats())["streams_open"] == 40
        assert calls[0] == calls[1]
        for reader in readers:
            reader.close()


def _finish(scrape: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine to its end: the store in memory answers at once."""
    with suppress(StopIteration):
        scrape.send(None)


def calls_of(function: Callable[[], object]) -> int:
    """Count the calls that a function makes, its own and those of what is written in C."""
    events: list[str] = []
    gc.disable()  # it calls what others left to be ended
    sys.setprofile(lambda _frame, event, _: events.append(event))
    try:
        function()
    finally:
        sys.setprofile(None)
        gc.enable()
    return events.count("call") + events.count("c_call")


async def test_runs_take_as_long_as_the_clock_says_and_end_once_however_they_end() -> None:
    async with gateway() as gate:
        await gate.chat("s", run_id="first")
        await gate.chat("s", run_id="waits")
        gate.clock.advance(42)
        await gate.manager.cancel_run(ME, "s", "waits")
        gate.store.fail_append()  # the end's first commit: told once it is stored, and once only
        gate.agent.do("first", Complete())
        await gate.ended("first")
        stats = await gate.manager.stats()
        assert sum(stats["runs_started_total"].values()) == 1
        assert sum(stats["runs_ended_total"].values()) == 2
        assert stats["runs_ended_total"]["unstarted", "cancelled"] == 1
        assert stats["run_seconds"]["default",].count == 1
        assert stats["run_seconds"]["default",].sum == pytest.approx(42)


def test_repairs_of_the_start_are_counted(tmp_path: Path) -> None:
    with serving(storage_url="jsonl:", data_dir=tmp_path) as served, served.client() as api:
        assert Scrape(served).get("recovery_found") == 0
        api.post("/sessions", json={"id": "s"})
    for index in (tmp_path / "index").glob("catalog*"):
        index.unlink()
    with serving(storage_url="jsonl:", data_dir=tmp_path) as served:
        scrape = Scrape(served)
    assert scrape.get("recovery_found", what="catalog_rebuilt") == 1
    assert scrape.get("recovery_seconds") > 0


@pytest.mark.parametrize(
    ("sent", "late", "reason"),
    [
        (b"", "HEAD_SECONDS_MAX", "unused"),
        (b"GET / HTTP/1.1\r\nX: y", "HEAD_SECONDS_MAX", "head_late"),
        (
            b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n",
            "BODY_WINDOW_SECONDS",
            "body_stalled",
        ),
        (
            b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
            "BODY_WINDOW_SECONDS",
            "body_slow",
        ),
        (
            b"GET / HTTP/1.1\r\nX: " + b"y" * http1.HEAD_BYTES_MAX + b"\r\n\r\n",
            None,
            "head_too_large",
        ),
    ],
)
def test_connections_that_the_gateway_cuts_are_counted(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, late: str | None, reason: str
) -> None:
    with serving() as served:

        def is_counted() -> bool:
            with monkeypatch.context() as patch:
                if late is not None:
                    patch.setattr(http1, late, 0.3)
                with hanging(served.port, sent) as sock:
                    rest_of(sock)
            return Scrape(served).get("connections_cut_total", reason=reason) == 1

        # Who stands still for so long between connecting and sending has cut another connection.
        until(is_counted, "it is counted")


def test_a_histogram_puts_each_value_into_the_bucket_it_lies_in() -> None:
    histogram = Histogram((1, 2))
    for value in (0, 1, 1.5, 2, 2.5, 1000):
        histogram.observe(value)
    assert list(histogram.buckets()) == [(1, 2), (2, 4), (float("inf"), 6)]
    assert histogram.count == 6
    assert histogram.sum == 1007


def test_a_missing_disk_hides_no_other_metric(tmp_path: Path) -> None:
    text = render_metrics({"sessions": 3}, tmp_path / "gone")
    assert b"bamboo_sessions 3.0" in text
    assert b"disk_free" not in text


# -- bounded ----------------------------------------------------------------------------------


def test_no_text_of_a_client_becomes_a_label(served: Served) -> None:
    with served.client() as api:
        be_hostile(served, api, "0" * 8)
        # A scrape is counted when it is answered: the first one is known to a later one.
        until(lambda: 'route="/metrics"' in Scrape(served).text, "a scrape is counted")
        known = set(Scrape(served).own())
        words = [secrets.token_hex(4) for _ in range(20)]
        for word in words:
            be_hostile(served, api, word)
        scrape = Scrape(served)
    assert set(scrape.own()) - known == set()
    assert not [word for word in words if word in scrape.text]
    values = {"route": set[str](), "method": set[str](), "code": set[str](), "agent": set[str]()}
    for series in scrape.own():
        for name, value in series.labels:
            values.setdefault(name, set()).add(value)
    routes = [route for router in (*ROUTERS, *wire_routers()) for route in router.routes]
    templates = {route.path for route in routes if isinstance(route, APIRoute)}
    assert values["route"] <= templates | {"unmatched"}
    assert values["method"] <= {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "other"}
    assert values["code"] <= set(PROBLEMS)
    assert values["agent"] <= {"default", "failing", "external", "unstarted"}
    assert set(values) <= {label for family in FAMILIES.values() for label in family.labels} | {
        "le"
    }


def be_hostile(served: Served, api: httpx.Client, word: str) -> None:
    """Put a word wherever a client can put one."""
    names = {"X-User-Id": word, "X-Request-Id": word, "User-Agent": word, "Cookie": word}
    say(api, f"s-{word}", user_id=word, title=word, run_id=f"run_{word}", metadata={word: word})
    say(api, f"s-{word}", agent="failing", options={"fail": f"a{word}"})
    api.get(f"/{word}", headers=names)
    api.get(f"/sessions/{word}", params={word: word}, headers={"Host": "localhost", **names})
    api.get(f"/stream/{word}", params={"connection_id": word}, headers=names)
    api.post("/chat", json={"message": word, "agent": word, word: word})
    run = api.post(f"/sessions/s-{word}/runs", json={"agent": "external"}).json()["run_id"]
    error = {"type": "error", "run_id": run, "message": word, "code": f"a{word}"}
    api.post(f"/sessions/s-{word}/events", json=error)
    api.get(f"/sessions/{word}", headers={"Host": f"{word}.example"})
    api.post(f"/sessions/s-{word}/events", json={"type": "custom", "name": word, "value": word})
    stream: dict[str, str | int] = {"connection_id": word, "after": 0, "until": "complete"}
    api.get(f"/stream/s-{word}", params=stream, headers=names)
    for method in (word, "GET", "BREW"):
        raw(
            served.port,
            f"{method} /{word} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
            until=b"}",
        )


def test_statuses_are_classes_and_methods_a_closed_list() -> None:
    request_log = RequestLog(FakeClock(), slow_seconds=1, access_log=False)
    for method in ("GET", "get", "BREW", "GET ", "X" * 100):
        for status in (*range(100, 600), None):
            record = RequestRecord(method, "r", 0)
            record.status = status
            request_log.record({"path": "/x"}, record)
    requests = request_log.measures()["requests_total"]
    assert isinstance(requests, dict)
    assert set(requests) == {
        (method, "unmatched", status)
        for method in ("GET", "other")
        for status in ("1xx", "2xx", "3xx", "4xx", "5xx", "none")
    }

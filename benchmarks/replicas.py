"""n. Replicas: several gateways over one PostgreSQL that syncs every commit.

PostgreSQL (`fsync = on`) and Redis are started here and end with the benchmark. Gateways, database
and clients share all cores of this machine, so more replicas cannot do more work than one where the
cores are the limit: what the figures show is what replicas cost one another.

* throughput: the same connections spread over 1, 2 and 3 replicas; each writes to sessions of its
  own, or all replicas to the same ones. Refused commits and locked retries are counted in
  PostgreSQL (`pg_stat_statements`).
* follow: words of runs at one replica, read at another. From the moment that was planned for a word
  to the reader's `recv`; so it is more than what passes after the commit. The rate is the highest
  at which the machine is busy for 70 % of the time at most.
* beside: one client's writes at one replica to a session in which a run at another one says 100
  words/s.
* idle: what replicas ask of PostgreSQL that have nothing to do, and that have readers of silence.
* cost: CPU and statements of one word and one request. With `--gateway-python` of another version
  it is the only case besides throughput of one process.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Bench, Row, Server, client_notes, median
from benchmarks.loadclient import Readers, request

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

TITLE = "Replicas: several gateways over one PostgreSQL"
_CONNECTIONS = 48
_SHARED_SESSIONS = 16
_CHAT_WORDS = 20
_BUSY_MAX = 0.7
_SHARE_LEAST = 0.9  # words that a look finds after 250 ms may fall out of the time that counts
_RATE_STEP, _RATE_STEPS_MAX = 1.3, 14
_WRITE_PAUSE_SECONDS = 0.02
_BESIDE_RATE = 100.0
_BESIDE_GOAL_MS = "<= 100"
_FOLLOW_GOALS = {True: "<= 25", False: "<= 400"}
_POSTGRES = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "max_connections": "150",
    "shared_preload_libraries": "pg_stat_statements",
}


def run(bench: Bench) -> list[Row]:
    """Measure what was asked for; nothing without PostgreSQL and Redis."""
    from _pytest.outcomes import Skipped

    from tests.support.postgres import own_server
    from tests.support.redis import own_redis

    rows: list[Row] = []
    with ExitStack() as stack:
        try:
            postgres = stack.enter_context(own_server(_POSTGRES))
            redis = stack.enter_context(own_redis())
        except Skipped as lack:
            bench.say(str(lack))
            return []
        field = _Field(bench, postgres, redis.url)
        for name, case in _CASES.items():
            if bench.wants(name):
                rows += case(field)
    return rows


# -- what stands around the replicas --------------------------------------------------------


@dataclass(slots=True)
class _Spent:
    """What was used between two moments, by all replicas and by PostgreSQL."""

    seconds: float
    gateway_seconds: float
    postgres_seconds: float
    busy: float
    statements: int
    applied: int
    batches: int
    batch_ms: float
    refused: int
    locked: int
    looks: int
    look_ms: float
    wal_bytes: int

    @property
    def notes(self) -> list[str]:
        gateway, postgres = self.gateway_seconds, self.postgres_seconds
        return [
            f"machine {self.busy:.0%} busy; cores: gateways {gateway / self.seconds:.2f}, "
            f"PostgreSQL {postgres / self.seconds:.2f}",
            f"{self.applied} commits in {self.batches} statements of {self.batch_ms:.2f} ms; "
            f"{self.refused} refused, {self.locked} locked retries",
        ]


class _Field:
    """The database, Redis, and what both have been asked."""

    def __init__(self, bench: Bench, postgres: "PostgresServer", bus_url: str) -> None:
        self.bench = bench
        self.is_other_version = bench.gateway_python != sys.executable
        self._postgres = postgres
        self._bus_url = bus_url
        self._database = ""
        postgres.run("CREATE EXTENSION pg_stat_statements")

    @contextmanager
    def replicas(self, count: int, *, bus: bool = False) -> Iterator[list[Server]]:
        """Run gateways on an empty database."""
        settings: dict[str, Any] = {"bus_url": self._bus_url} if bus else {}
        with self._postgres.database("LOCALE 'C'") as self._database:
            settings["storage_url"] = self._postgres.url(self._database)
            names = ["gateway"] * count
            with self.bench.servers(*names, is_pinned=False, **settings) as servers:
                yield servers

    @contextmanager
    def spent(self, servers: Sequence[Server]) -> Iterator[Callable[[], _Spent]]:
        """Count until the block ends; the answer is there then."""
        self._postgres.run("SELECT pg_stat_statements_reset()")
        before = self._now(servers)
        found: list[_Spent] = []
        yield lambda: found[0]
        found.append(self._difference(before, self._now(servers)))

    def most(self, what: str) -> str:
        """Return the statements since `spent` began that had the most calls, or took longest.

        Args:
            what: `calls` or `total_exec_time`, which is in ms.
        """
        rows = self._postgres.run(
            f"SELECT round(sum({what})), sum(calls),"
            " left(regexp_replace(query, '\\s+', ' ', 'g'), 60) AS text"
            " FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid"
            f" WHERE d.datname = '{self._database}' GROUP BY text ORDER BY 1 DESC LIMIT 9"
        )
        if what == "calls":
            return "; ".join(f"{calls} x {text}" for _, calls, text in rows)
        return "; ".join(f"{ms:.0f} ms, {calls} x {text}" for ms, calls, text in rows[:4])

    def connections(self) -> int:
        """Return how many connections the replicas have."""
        [(count,)] = self._postgres.run(
            "SELECT count(*) FROM pg_stat_activity"
            f" WHERE datname = '{self._database}' AND pid <> pg_backend_pid()"
        )
        return int(count)

    def _now(self, servers: Sequence[Server]) -> tuple[float, ...]:
        [(wal,)] = self._postgres.run("SELECT pg_current_wal_insert_lsn() - '0/0'")
        gateways = sum(server.cpu_seconds() for server in servers)
        return (time.monotonic(), gateways, self._postgres_seconds(), *_ticks(), float(wal))

    def _difference(self, before: tuple[float, ...], after: tuple[float, ...]) -> _Spent:
        seconds, gateway, postgres, busy, total, wal = (
            b - a for a, b in zip(before, after, strict=True)
        )
        groups = self._statements("query LIKE 'WITH unit AS MATERIALIZED%'")
        looks = self._statements("query LIKE 'SELECT id, epoch, version, seq, last_activity_at%'")
        return _Spent(
            seconds,
            gateway,
            postgres,
            busy / total if total else 0,
            self._statements("true")[0],
            groups[1],
            groups[0],
            groups[2],
            self._statements("query LIKE 'SELECT s.epoch, s.seq, s.version, s.is_packed, t.%'")[1],
            self._statements("query LIKE 'SELECT epoch, seq, last_activity_at, head%FOR UPDATE'")[
                0
            ],
            looks[0],
            looks[2],
            int(wal),
        )

    def _statements(self, where: str) -> tuple[int, int, float]:
        """Return the calls and rows of some statements, and the ms of one call."""
        [(calls, rows, ms)] = self._postgres.run(
            "SELECT coalesce(sum(calls), 0), coalesce(sum(rows), 0),"
            " coalesce(sum(total_exec_time) / sum(calls), 0) FROM pg_stat_statements s"
            f" JOIN pg_database d ON d.oid = s.dbid WHERE d.datname = '{self._database}'"
            f" AND ({where})"
        )
        return int(calls), int(rows), float(ms)

    def _postgres_seconds(self) -> float:
        """Return the CPU of the server's processes, those that have ended included."""
        pid_file = self._postgres.directory / "data" / "postmaster.pid"
        first = pid_file.read_text(encoding="ascii").split()[0]
        ticks = 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if entry.name == first:
                ticks += sum(map(int, fields[11:15]))
            elif fields[1] == first:
                ticks += sum(map(int, fields[11:13]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _ticks() -> tuple[float, float]:
    """Return the ticks that all cores were busy, and all ticks."""
    line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    numbers = [int(part) for part in line.split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def _load_all(
    bench: Bench, servers: Sequence[Server], requests: Sequence[Sequence[bytes]], seconds: float
) -> list[dict[str, Any]]:
    """Send each server its requests, to all at once."""
    with ThreadPoolExecutor(len(servers)) as pool:
        return list(
            pool.map(
                lambda one: bench.load(one[0], one[1], len(one[1]), seconds),
                zip(servers, requests, strict=True),
            )
        )


def _make_sessions(bench: Bench, server: Server, ids: Iterable[str]) -> None:
    bodies = [json.dumps({"id": one}).encode() for one in ids]
    posts = [request("POST", "/api/v1/sessions", body) for body in bodies]
    bench.load(server, posts, min(len(posts), 16), 0)


def _counts(field: _Field) -> tuple[int, ...]:
    counts: tuple[int, ...] = field.bench.pick((1, 2, 3), (1, 2, 3), (2,))
    return counts[:1] if field.is_other_version else counts


# -- throughput -----------------------------------------------------------------------------

_EVENT = json.dumps({"type": "custom", "name": "reading", "value": {"text": "the quick fox"}})


def _append(session: str) -> bytes:
    return request("POST", f"/api/v1/sessions/{session}/events", _EVENT.encode())


def _create(_: str) -> bytes:
    return request("POST", "/api/v1/sessions", b'{"title":"A chat"}')


def _chat(session: str) -> bytes:
    options = {"mode": "say", "words": _CHAT_WORDS}
    chat = {"session_id": session, "message": "go", "options": options}
    return request("POST", "/api/v1/chat", json.dumps(chat).encode(), prefer="wait=60")


_KINDS = {"appends": _append, "new sessions": _create, f"chats of {_CHAT_WORDS} words": _chat}


def _throughput(field: _Field) -> list[Row]:
    rows = []
    for name, make in _KINDS.items():
        alone: float | None = None
        for count in _counts(field):
            each = _connections(field) // count
            row = _answered(
                field,
                f"throughput: {name}, {count} replicas",
                [[f"at-{at}-{n}" for n in range(each)] for at in range(count)],
                make,
            )
            alone = alone or row.gateway
            assert row.gateway is not None
            assert alone is not None
            row.ratio, row.of = row.gateway / alone, "throughput: that of one replica"
            rows.append(row)
    for count in _counts(field):
        each = _connections(field) // count
        sessions = [f"shared-{n % _SHARED_SESSIONS}" for n in range(each)]
        case = f"throughput: appends of {count} replicas to the same {_SHARED_SESSIONS} sessions"
        rows.append(_answered(field, case, [sessions] * count, _append))
    return rows


def _connections(field: _Field) -> int:
    return int(field.bench.pick(_CONNECTIONS, _CONNECTIONS, 6))


def _answered(
    field: _Field, case: str, sessions: list[list[str]], make: Callable[[str], bytes]
) -> Row:
    bench = field.bench
    requests = [[make(one) for one in ids] for ids in sessions]
    warmup, seconds = bench.pick((1.0, 4.0), (0.5, 2.0), (0.1, 0.3))
    rates, answers, used = [], [], []
    runs = bench.pick(3, 1, 1)
    with field.replicas(len(requests)) as servers:
        _make_sessions(bench, servers[0], {one for ids in sessions for one in ids})
        for _ in range(runs):
            _load_all(bench, servers, requests, warmup)
            with field.spent(servers) as spent:
                found = _load_all(bench, servers, requests, seconds)
            rates.append(sum(one["answers"] / one["elapsed"] for one in found))
            answers += found
            used.append(spent())
        longest = field.most("total_exec_time")
    p50, p99 = (median(one[name] for one in answers) for name in ("p50_ms", "p99_ms"))
    notes = [f"ms: p50 {p50:.1f}, p99 {p99:.1f}", *used[-1].notes]
    notes += [f"longest in PostgreSQL: {longest}", *client_notes(answers)]
    return Row(case, "answers/s", median(rates), runs=runs, notes=notes)


# -- readers at other replicas --------------------------------------------------------------


def _follow(field: _Field) -> list[Row]:
    if field.is_other_version:
        return []
    return [_followed(field, bus=bus) for bus in (True, False)]


def _followed(field: _Field, *, bus: bool) -> Row:
    bench = field.bench
    each = bench.pick(20, 20, 2)
    steps = bench.pick(_RATE_STEPS_MAX, _RATE_STEPS_MAX, 1)
    with field.replicas(3, bus=bus) as servers, ExitStack() as stack:
        readers = _open(bench, stack, servers, each, at=1)
        near = _open_readers(bench, stack, servers, 1, at=0)
        kept: dict[str, Any] | None = None
        for step in range(steps):
            found = _play(field, servers, [*readers, *near], each, 2 * _RATE_STEP**step)
            if kept is None or (found["busy"] <= _BUSY_MAX and found["share"] >= _SHARE_LEAST):
                kept = found
            if found["busy"] > _BUSY_MAX or found["share"] < _SHARE_LEAST:
                break
        for server in servers:
            server.end_pace()
    assert kept is not None
    far, beside = kept["answers"][: len(readers)], kept["answers"][len(readers) :]
    with_bus = "with Redis" if bus else "without Redis"
    return Row(
        f"follow: 3 replicas, {3 * each} sessions, {kept['rate'] * 3 * each:.0f} words/s, "
        f"{with_bus}: p99",
        "ms",
        max(one["p99_ms"] for one in far),
        goal=_FOLLOW_GOALS[bus],
        goal_is_absolute=True,
        notes=[
            f"p50 {median(one['p50_ms'] for one in far):.1f} ms; readers at the run's own replica: "
            f"p50 {median(one['p50_ms'] for one in beside):.1f}, "
            f"p99 {max(one['p99_ms'] for one in beside):.1f} ms",
            f"{kept['share']:.0%} of the planned words came",
            *kept["spent"].notes,
            *client_notes(far),
        ],
    )


def _open(
    bench: Bench, stack: ExitStack, servers: list[Server], each: int, *, at: int
) -> list[Readers]:
    """Begin `each` producers at every replica, which wait for a pace; read them `at` further on."""
    for place, server in enumerate(servers):
        posts = [
            json.dumps(
                {
                    "session_id": f"of-{place}-{number}",
                    "message": "go",
                    "options": {"mode": "pace", "phase": number / each},
                }
            )
            for number in range(each)
        ]
        requests = [request("POST", "/api/v1/chat", post.encode()) for post in posts]
        bench.load(server, requests, min(each, 16), 0)
    return _open_readers(bench, stack, servers, each, at=at)


def _open_readers(
    bench: Bench, stack: ExitStack, servers: list[Server], each: int, *, at: int
) -> list[Readers]:
    return [
        stack.enter_context(
            bench.readers(
                servers[(place + at) % len(servers)],
                [f"/api/v1/stream/of-{place}-{number}" for number in range(each)],
            )
        )
        for place in range(len(servers))
    ]


def _play(
    field: _Field, servers: list[Server], readers: list[Readers], each: int, rate: float
) -> dict[str, Any]:
    """Let every session speak, all from one moment on, and listen once they do."""
    warmup, seconds = field.bench.pick((0.7, 3.0), (0.5, 2.0), (0.2, 0.5))
    for server in servers:
        server.wait_for(each)
    moment = time.monotonic_ns() + 100_000_000
    for server in servers:
        server.tell(f"start {moment} {rate} {warmup + seconds + 0.4}")
    time.sleep(0.1)
    with field.spent(servers) as spent, ThreadPoolExecutor(len(readers)) as pool:
        answers = list(pool.map(lambda one: one.listen(warmup, seconds), readers))
    for server in servers:
        server.wait_for(each)
    for one in readers:  # what is late would count in the next round
        one.listen(0.0, 0.3)
    words = sum(answer["words"] for answer in answers)
    planned = sum(
        rate * one.count * answer["elapsed"] for one, answer in zip(readers, answers, strict=True)
    )
    used = spent()
    share = words / planned
    return {"answers": answers, "busy": used.busy, "share": share, "spent": used, "rate": rate}


# -- a client's write beside a run ----------------------------------------------------------


def _beside(field: _Field) -> list[Row]:
    if field.is_other_version:
        return []
    return [_written_beside(field, bus=bus) for bus in (True, False)]


def _written_beside(field: _Field, *, bus: bool) -> Row:
    bench = field.bench
    count = bench.pick(400, 150, 5)
    event = json.loads(_EVENT)
    times, failures = [], []
    with field.replicas(2, bus=bus) as servers, ExitStack() as stack:
        speaking, writing = servers
        [reader, *_] = _open(bench, stack, [speaking], 1, at=0)
        speaking.wait_for(1)
        seconds = count * 0.2 + 5
        speaking.tell(f"start {time.monotonic_ns() + 50_000_000} {_BESIDE_RATE} {seconds}")
        listening = stack.enter_context(ThreadPoolExecutor(1))
        said = listening.submit(reader.listen, 0.5, count * _WRITE_PAUSE_SECONDS)
        time.sleep(0.5)
        with field.spent(servers) as spent:
            for _ in range(count):
                began = time.monotonic()
                try:
                    writing.call("POST", "/api/v1/sessions/of-0-0/events", event)
                except RuntimeError as error:
                    failures.append(str(error))
                times.append((time.monotonic() - began) * 1000)
                time.sleep(_WRITE_PAUSE_SECONDS)
        heard = said.result()
    times.sort()
    used = spent()
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return Row(
        f"beside: writes beside {_BESIDE_RATE:.0f} words/s at another replica, "
        f"{'with' if bus else 'without'} Redis: p99",
        "ms",
        p99,
        goal=_BESIDE_GOAL_MS,
        goal_is_absolute=True,
        runs=count,
        notes=[
            f"ms: p50 {statistics.median(times):.1f}, longest {times[-1]:.1f}; "
            f"{len(failures)} of {count} refused {failures[:1] or ''}",
            f"for each write {used.refused / count:.2f} refused commits of both sides and "
            f"{used.locked / count:.2f} locked retries",
            f"the run's own reader: p50 {heard['p50_ms']:.1f}, p99 {heard['p99_ms']:.1f} ms, "
            f"{heard['words'] / heard['elapsed']:.0f} words/s",
            *used.notes,
        ],
    )


# -- what is asked of PostgreSQL for nothing ------------------------------------------------


def _idle(field: _Field) -> list[Row]:
    if field.is_other_version:
        return []
    return [_of_silence(field, bus=bus) for bus in (True, False)]


def _of_silence(field: _Field, *, bus: bool) -> Row:
    bench = field.bench
    seconds = bench.pick(10.0, 10.0, 1.0)
    each = bench.pick(500, 500, 3)
    with field.replicas(3, bus=bus) as servers, ExitStack() as stack:
        time.sleep(bench.pick(3.0, 3.0, 0.5))
        with field.spent(servers) as spent:
            time.sleep(seconds)
        nothing, asked = spent(), field.most("calls")
        for place, server in enumerate(servers):
            ids = [f"silent-{place}-{number}" for number in range(each)]
            _make_sessions(bench, server, ids)
            paths = [f"/api/v1/stream/{one}" for one in ids]
            stack.enter_context(bench.readers(server, paths))
        time.sleep(bench.pick(3.0, 3.0, 0.5))
        with field.spent(servers) as spent:
            time.sleep(seconds)
        watched, connections = spent(), field.connections()
    return Row(
        f"idle: 3 replicas {'with' if bus else 'without'} Redis: of each replica",
        "statements/s",
        nothing.statements / nothing.seconds / 3,
        notes=[
            f"CPU of PostgreSQL {nothing.postgres_seconds / nothing.seconds:.2%} of a core in all",
            f"with {each} silent streams at each: {watched.statements / watched.seconds / 3:.2f} "
            f"statements/s, {watched.looks / watched.seconds / 3:.2f} looks/s of "
            f"{watched.look_ms:.2f} ms; PostgreSQL "
            f"{watched.postgres_seconds / watched.seconds:.2%}, gateways "
            f"{watched.gateway_seconds / watched.seconds:.2%} of a core in all",
            f"{connections} connections in all",
            f"asked for nothing in {seconds:.0f} s: {asked}",
        ],
    )


# -- what one word and one request cost -----------------------------------------------------


def _cost(field: _Field) -> list[Row]:
    kinds = [(1, False)] if field.is_other_version else [(1, False), (3, False), (3, True)]
    kinds = field.bench.pick(kinds, kinds, kinds[:1])
    return [row for count, bus in kinds for row in _costs(field, count, bus=bus)]


def _costs(field: _Field, count: int, *, bus: bool) -> Iterator[Row]:
    bench = field.bench
    each, rate = bench.pick(48, 48, 6) // count, bench.pick(8.0, 8.0, 2.0)
    what = f"{count} replicas{' with Redis' if bus else ''}"
    where = "a reader at another replica" if count > 1 else "a reader"
    if field.is_other_version:
        what = "the other version"
    with field.replicas(count, bus=bus) as servers, ExitStack() as stack:
        readers = _open(bench, stack, servers, each, at=1)
        found = _play(field, servers, readers, each, rate)
        words = sum(answer["words"] for answer in found["answers"])
        seconds = median(answer["elapsed"] for answer in found["answers"])
        # The words of the warm-up have cost, too.
        words *= found["spent"].seconds / seconds
        yield _cost_row(f"cost: a word, {where}, {what}", found["spent"], words)
        for server in servers:
            server.end_pace()
    with field.replicas(count, bus=bus) as servers:
        sessions = [[f"at-{at}-{n}" for n in range(each)] for at in range(count)]
        _make_sessions(bench, servers[0], [one for ids in sessions for one in ids])
        gets = {
            "GET of a session": lambda one: request("GET", f"/api/v1/sessions/{one}"),
            "POST of an event": _append,
        }
        seconds = bench.pick(4.0, 2.0, 0.3)
        for name, make in gets.items():
            requests = [[make(one) for one in ids] for ids in sessions]
            _load_all(bench, servers, requests, 0.2)
            with field.spent(servers) as spent:
                answers = _load_all(bench, servers, requests, seconds)
            done = sum(answer["answers"] for answer in answers)
            yield _cost_row(f"cost: {name}, {what}", spent(), done)


def _cost_row(case: str, spent: _Spent, count: float) -> Row:
    return Row(
        case,
        "us of CPU",
        spent.gateway_seconds / count * 1e6,
        notes=[
            f"PostgreSQL {spent.postgres_seconds / count * 1e6:.0f} us; "
            f"{spent.statements / count:.2f} statements; WAL {spent.wal_bytes / count:.0f} bytes; "
            f"{count / spent.seconds:.0f}/s",
            *spent.notes,
        ],
    )


_CASES: dict[str, Callable[[_Field], list[Row]]] = {
    "throughput": _throughput,
    "follow": _follow,
    "beside": _beside,
    "idle": _idle,
    "cost": _cost,
}

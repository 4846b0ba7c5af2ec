"""m. Search: the statements of a search on SQLite and PostgreSQL, with many messages.

The messages are words of a made-up vocabulary with the frequencies of a language, some sentences to
some hundred words long, of 1,000 users and 20,000 sessions over a year. Each term that is searched
is in a known number of them. Below HTTP: what is measured is the database and the statements.

PostgreSQL is that of `TEST_POSTGRES_URL`, or one of this machine's; without one it is left out.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.search import parse
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.index.rows import row_of
from bamboo_gateway.storage.index.search import message_row, search_messages
from bamboo_gateway.storage.index.search_code import encoded_message
from bamboo_gateway.storage.index.search_statements import add_statement
from bamboo_gateway.storage.index.search_tables import POSTGRESQL_DDL, SQLITE_DDL
from bamboo_gateway.storage.index.search_tables import search_messages as table
from bamboo_gateway.storage.index.sqlite import create_tables, open_database
from bamboo_gateway.storage.index.statement import DialectName, sql_dialect
from bamboo_gateway.storage.index.steps import Request, Rows, run_steps
from bamboo_gateway.storage.index.tables import metadata, sessions
from bamboo_gateway.storage.reports import SearchQuery
from benchmarks.harness import Bench, Row

TITLE = "Search, in ms"
_YEAR_MS = 365 * 24 * 3600 * 1000
_START_MS = 1_700_000_000_000
_USERS, _RARE_TERMS, _RARE = 1000, 20, 100
_BATCH = 500


def run(bench: Bench) -> list[Row]:
    """Measures each database."""
    count = bench.pick(1_000_000, 100_000, 3_000)
    rows = []
    for dialect in ("sqlite", "postgresql"):
        if not bench.wants(dialect):
            continue
        with ExitStack() as stack:
            database = stack.enter_context(_database(dialect, bench.directory / "search"))
            if database is None:
                continue
            rows += [*_measured(database, count, bench)]
    return rows


def _measured(database: "_Database", count: int, bench: Bench) -> Iterator[Row]:
    corpus = _Corpus(count)
    database.fill(corpus)
    name = database.dialect
    yield database.indexing(corpus)
    size = database.bytes() / (count + _BATCH)
    yield Row(f"{name}: index and text of a message", "bytes", gateway=size)
    rounds = bench.pick(20, 10, 1)
    user = corpus.users[0]
    cases: list[tuple[str, Callable[[int], SearchQuery], float, float]] = [
        (f"a term in {_RARE}", lambda n: _query(corpus.rare[n % _RARE_TERMS]), 50, 300),
        ("a term in half", lambda _: _query("commonplace"), 1000, 1000),
        ("a term in the older half", lambda _: _query("ancient"), 1000, 1000),
        ("one letter", lambda n: _query("aeiou"[n % 5]), 1000, 1000),
        ("one rare character", lambda _: _query("京"), 1000, 1000),
        ("two rare letters", lambda _: _query("qx"), 1000, 1000),
        ("a phrase in none", lambda n: _query(f'"{corpus.rare[n % _RARE_TERMS]} of"'), 1000, 1000),
        ("a term of others, in none of a user's", lambda _: _query("commonest", user), 1000, 1000),
        (f"a term in {_RARE}, by a user", lambda n: _query(corpus.rare[n % 20], user), 50, 300),
    ]
    for case, query, p50_max, p99_max in cases:
        took = []
        for number in range(rounds * 5):
            started = time.perf_counter()
            database.search(query(number))
            took.append((time.perf_counter() - started) * 1000)
        took.sort()
        where = f"{name}: {case} of {count:,}"
        yield _row(f"{where}, p50", took[len(took) // 2], p50_max, bench)
        yield _row(f"{where}, p99", took[-1 - len(took) // 100], p99_max, bench)


def _row(case: str, took: float, goal: float, bench: Bench) -> Row:
    bound = bench.pick(f"<= {goal:g}", f"<= {goal:g}", None)
    return Row(case, "ms", gateway=max(took, 0.001), goal=bound, goal_is_absolute=True)


def _query(words: str, user_id: str | None = None) -> SearchQuery:
    return SearchQuery(parse(words), user_id=user_id, archived="include")


class _Corpus:
    """Messages with words of known frequencies; the same ones in each run."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._random = random.Random(1)
        words = self._vocabulary(20_000)
        weights = [1 / (rank + 5) for rank in range(len(words))]
        self._words = self._random.choices(words, weights, k=500_000)
        self.rare = [f"zephyr{self._random.choice(words)}{n}qu" for n in range(_RARE_TERMS)]
        self.users = [f"user-{n}" for n in range(_USERS)]
        self._special: dict[int, list[str]] = {}
        for term in [*self.rare, "京", "qx"]:
            for place in self._random.sample(range(count), min(_RARE, count // 10)):
                self._special.setdefault(place, []).append(term)
        self.heads = [
            SessionHead(f"s-{n:026d}", 1, 1 << 40, user_id=self.users[n % _USERS])
            for n in range(max(10, count // 50))
        ]

    def _vocabulary(self, count: int) -> list[str]:
        chance, words = self._random, set[str]()
        while len(words) < count:
            syllables = (
                chance.choice("bcdfghjklmnprstvwz")
                + chance.choice("aeiou")
                + chance.choice("nrst ")
                for _ in range(chance.choice((1, 2, 2, 3, 3)))
            )
            words.add("".join(syllables).replace(" ", ""))
        return sorted(words)

    def rows(self, first: int, last: int) -> list[dict[str, Any]]:
        """Return some messages as rows, in the order that they were said."""
        return [self._row(number) for number in range(first, last)]

    def bodies(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """Return some messages as events, each with its session."""
        found = []
        for row in self.rows(first, last):
            moment = format_ms(row["created_at"])
            said = {
                "id": f"m{row['seq']}",
                "role": "user",
                "content": row["code"].replace("Y", " "),
            }
            event = {"type": "message", "seq": row["seq"], "time": moment, "message_id": said["id"]}
            body = codec.encode({**event, "message": {**said, "created_at": moment}})
            found.append((row["session_key"], body))
        return found

    def _row(self, number: int) -> dict[str, Any]:
        key = self._random.randrange(len(self.heads))
        head = self.heads[key]
        size = min(400, max(4, int(self._random.lognormvariate(3.7, 0.9))))
        start = self._random.randrange(len(self._words) - size)
        words = [*self._words[start : start + size], *self._special.get(number, ())]
        if number % 2:
            words[-1:] = [words[-1], "commonplace"]
            if head.user_id != self.users[0]:
                words.append("commonest")
        if number < self.count // 2:
            words.append("ancient")
        return {
            "session_key": key + 1,
            "session_id": head.id,
            "seq": number + 1,
            "user_id": head.user_id,
            "role": "user",
            "created_at": _START_MS + number * (_YEAR_MS // self.count),
            "code": encoded_message(" ".join(words), head.user_id),
        }


class _Database:
    """A database with the tables of sessions and searches."""

    dialect: DialectName

    def fill(self, corpus: _Corpus) -> None:
        raise NotImplementedError

    def add(self, rows: list[dict[str, Any]]) -> None:
        raise NotImplementedError

    def search(self, query: SearchQuery) -> Any:
        raise NotImplementedError

    def bytes(self) -> int:
        raise NotImplementedError

    def indexing(self, corpus: _Corpus) -> Row:
        """Add more messages one by one, as commits of a quiet gateway do, then in batches."""
        name = self.dialect
        last = corpus.count
        bodies = corpus.bodies(last, last + _BATCH)
        started = time.perf_counter()
        rows = [_row_of(corpus, *one, seq) for seq, one in enumerate(bodies, start=last + 1)]
        made = time.perf_counter() - started
        started = time.perf_counter()
        half = _BATCH // 2
        for row in rows[:half]:
            self.add([row])
        single = (time.perf_counter() - started) / half
        started = time.perf_counter()
        self.add(rows[half:])
        batch = (time.perf_counter() - started) / half
        alone, row_us = single * 1e6, made / _BATCH * 1e6
        notes = [f"one transaction each: {alone:.0f}; the rows themselves: {row_us:.0f}"]
        return Row(f"{name}: adding a message, of {half}", "us", gateway=batch * 1e6, notes=notes)


def _row_of(corpus: _Corpus, key: int, body: bytes, seq: int) -> dict[str, Any]:
    head = corpus.heads[key - 1]
    row = message_row(key, head.id, head.user_id, seq, body)
    assert row is not None
    return row


class _Sqlite(_Database):
    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._connection = open_database(path, synchronous="NORMAL")
        with self._connection:
            create_tables(self._connection, metadata)
            for statement in SQLITE_DDL:
                self._connection.execute(statement)

    @override
    def fill(self, corpus: _Corpus) -> None:
        with self._connection as connection:
            for key, head in enumerate(corpus.heads, start=1):
                row = {"key": key, "epoch": 1, "head": b"", **row_of(head)}
                names = ", ".join(row)
                values = ", ".join(f":{name}" for name in row)
                connection.execute(f"INSERT INTO sessions ({names}) VALUES ({values})", row)
        # Less merging while it is filled; what is measured has the defaults again.
        self._connection.pragma("cache_size", -1_000_000)
        self._set_hashsize(256 * 1024 * 1024)
        for first in range(0, corpus.count, 50 * _BATCH):
            self.add(corpus.rows(first, min(first + 50 * _BATCH, corpus.count)))
        self._set_hashsize(1024 * 1024)
        self._connection.pragma("cache_size", -8 * 1024)

    def _set_hashsize(self, size: int) -> None:
        option = "INSERT INTO search_grams(search_grams, rank) VALUES ('hashsize', ?)"
        self._connection.execute(option, (size,))

    @override
    def add(self, rows: list[dict[str, Any]]) -> None:
        with self._connection as connection:
            connection.executemany(add_statement("sqlite").text, rows)

    @override
    def search(self, query: SearchQuery) -> Any:
        return run_steps(search_messages(query, "sqlite"), self._execute)

    def _execute(self, request: Request) -> Rows:
        return self._connection.execute(request.text, request.values).fetchall()

    @override
    def bytes(self) -> int:
        names = "name LIKE '%search_%'"
        [[size]] = self._connection.execute(f"SELECT sum(pgsize) FROM dbstat WHERE {names}")
        return int(size)

    def close(self) -> None:
        self._connection.close()


class _Postgres(_Database):
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        import psycopg
        from sqlalchemy.schema import CreateIndex, CreateTable

        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        dialect = sql_dialect("postgresql")
        self._execute_ddl(str(CreateTable(sessions).compile(dialect=dialect)))
        self._execute_ddl(str(CreateTable(table).compile(dialect=dialect)))
        indexes = (CreateIndex(i) for one in (sessions, table) for i in one.indexes)
        self._indexes = [str(index.compile(dialect=dialect)) for index in indexes]

    def _execute_ddl(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    @override
    def fill(self, corpus: _Corpus) -> None:
        with self._connection.cursor() as cursor:
            rows = [{"epoch": 1, "head": b"", **row_of(head)} for head in corpus.heads]
            with cursor.copy(f"COPY sessions ({', '.join(rows[0])}) FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(list(row.values()))
            for first in range(0, corpus.count, 50 * _BATCH):
                found = corpus.rows(first, min(first + 50 * _BATCH, corpus.count))
                names = ", ".join(found[0])
                with cursor.copy(f"COPY search_messages ({names}) FROM STDIN".encode()) as copy:
                    for row in found:
                        copy.write_row(list(row.values()))
        # Made at the end, as no gateway does: one by one, a million rows take too long here.
        self._execute_ddl("SET maintenance_work_mem = '512MB'")
        for statement in (*self._indexes, *POSTGRESQL_DDL, "VACUUM ANALYZE"):
            self._execute_ddl(statement)

    @override
    def add(self, rows: list[dict[str, Any]]) -> None:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(add_statement("postgresql").text.encode(), rows)

    @override
    def search(self, query: SearchQuery) -> Any:
        with self._connection.transaction():
            return run_steps(search_messages(query, "postgresql"), self._execute)

    def _execute(self, request: Request) -> Rows:
        return self._connection.execute(request.text.encode(), request.values).fetchall()

    @override
    def bytes(self) -> int:
        [[size]] = self._connection.execute("SELECT pg_total_relation_size('search_messages')")
        return int(size)

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _database(dialect: str, directory: Path) -> Iterator[_Sqlite | _Postgres | None]:
    with ExitStack() as stack:
        if dialect == "sqlite":
            directory.mkdir()
            found: _Sqlite | _Postgres = _Sqlite(directory / "search.sqlite")
        else:
            from _pytest.outcomes import Skipped

            from tests.support.postgres import shared_server

            try:
                server = stack.enter_context(shared_server())
            except Skipped:
                yield None
                return
            name = stack.enter_context(server.database("LOCALE 'C'"))
            found = _Postgres(server.url(name))
        stack.callback(found.close)
        yield found

"""Backups of a gateway under load: each one restored has all that was acknowledged before it began.

What a restored gateway serves, by the routes that people use, is a prefix of each log of the
gateway that went on. Sessions are archived, restored, forked, deleted, created again and compacted
all the while.
"""

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from tests.cli.running import COMMAND_SECONDS, bamboo
from tests.crash.traffic import Producer, Promises
from tests.processes import BAMBOO, CALL_SECONDS, REPOSITORY, Gateway, environment
from tests.support.clients import local_client
from tests.support.postgres import GivenServer, PostgresServer, client_program, execute
from tests.support.seen import call, check_session, events_of, messages_in, sessions_of
from tests.support.waiting import until

DELTAS = {"token", "thinking", "tool_delta"}
SETTINGS = {
    "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.2",
    "BAMBOO_DELTA_RETENTION_SECONDS": "0.2",
    "BAMBOO_LOG_LEVEL": "warning",
}
STORES = ("jsonl:", "sqlite:")
PRODUCED = [f"s-{number}" for number in range(4)]
MOVED = [f"Moved-{number}" for number in range(3)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("store", STORES)
def test_backups_under_load_have_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, store: str
) -> None:
    back_up_under_load(tmp_path, Backups(store), rounds=3)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", STORES)
def test_many_backups_under_load_have_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, store: str
) -> None:
    back_up_under_load(tmp_path, Backups(store), rounds=20)


@pytest.mark.timeout(600)
def test_dumps_of_postgresql_under_load_have_what_was_acknowledged_and_nothing_else(
    tmp_path: Path, postgres_server: PostgresServer | GivenServer
) -> None:
    """With the command that `bamboo backup` names, and new epochs by `bamboo doctor`."""
    with ExitStack() as stack:
        back_up_under_load(tmp_path, Dumps(postgres_server, stack), rounds=3)


class Backups:
    """Backups by `bamboo backup`, restored by `bamboo restore`."""

    def __init__(self, store: str) -> None:
        self.settings = {**SETTINGS, "BAMBOO_STORAGE_URL": store}

    def make(self, gateway: Gateway, to: Path) -> None:
        done = bamboo("backup", str(to), "--data-dir", str(gateway.data_dir), **self.settings)
        assert done.returncode == 0, done.stderr

    def restore(self, path: Path, data_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Restore one; return the settings for it, and at which position it has each session."""
        done = bamboo("restore", str(path), "--data-dir", str(data_dir), **self.settings)
        assert done.returncode == 0, done.stderr
        return self.settings, self._seen(path)

    def _seen(self, path: Path) -> dict[str, str]:
        if (database := path / "sessions.db").exists():
            with closing(sqlite3.connect(database)) as connection:
                rows = connection.execute("SELECT id, epoch, seq FROM sessions").fetchall()
            return {name: f"{epoch}-{seq}" for name, epoch, seq in rows}
        manifest = json.loads((path / "backup.json").read_bytes())
        return {
            file["session_id"]: file["position"]
            for file in manifest["files"]
            if "session_id" in file
        }


class Dumps:
    """Dumps by the `pg_dump` that `bamboo backup` names, restored by `pg_restore`."""

    def __init__(self, server: PostgresServer | GivenServer, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self.settings = self._settings_for(stack.enter_context(server.database()))

    def _settings_for(self, database: str) -> dict[str, str]:
        return {**SETTINGS, "BAMBOO_STORAGE_URL": self._server.url(database)}

    def make(self, gateway: Gateway, to: Path) -> None:
        named = bamboo("backup", str(to), "--data-dir", str(gateway.data_dir), **self.settings)
        assert named.returncode == 2
        [command] = re.findall(r"`(pg_dump [^`]*)`", named.stderr)
        url = self.settings["BAMBOO_STORAGE_URL"]
        password = urlsplit(url).password or ""
        assert not password or password not in named.stderr
        to.mkdir()
        words = [str(client_program("pg_dump")), *shlex.split(command)[1:]]
        subprocess.run(words, cwd=to, env=self._with_password(), check=True)

    def restore(self, path: Path, data_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Restore one into a new database, and give new epochs."""
        del data_dir
        settings = self._settings_for(self._stack.enter_context(self._server.database()))
        url = settings["BAMBOO_STORAGE_URL"]
        words = ["--exit-on-error", "--no-owner", f"--dbname={url}", str(path / "bamboo.dump")]
        subprocess.run([client_program("pg_restore"), *words], check=True)
        rows = execute(url, "SELECT id, epoch, seq FROM sessions")
        done = bamboo("doctor", "--new-epochs", "--json", **settings)
        assert done.returncode == 0, done.stderr
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert {one["severity"] for one in found} == {"note"}, found
        return settings, {name: f"{epoch}-{seq}" for name, epoch, seq in rows}

    def _with_password(self) -> dict[str, str]:
        password = urlsplit(self.settings["BAMBOO_STORAGE_URL"]).password
        return {**os.environ, "PGPASSWORD": unquote(password)} if password else {**os.environ}


@dataclass
class Churn:
    """Somebody who moves sessions between logs and archive, and notes what was answered.

    Attributes:
        said: The texts of the acknowledged messages, by session.
        gone: The sessions whose deletion was acknowledged, and that are not created again.
        failure: Why it ended early.
    """

    url: str
    said: dict[str, list[str]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    failure: str | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def running(self) -> Iterator[None]:
        http = local_client(base_url=f"{self.url}/api/v1", timeout=CALL_SECONDS)
        acts = [self._move, self._fork_and_delete, self._talk_long]
        threads = [
            threading.Thread(target=self._repeat, args=(http, act), name=act.__name__)
            for act in acts
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join(COMMAND_SECONDS)
            http.close()
        assert self.failure is None, self.failure

    def _repeat(self, http: httpx.Client, act: Callable[[httpx.Client], None]) -> None:
        try:
            while not self._over.is_set():
                act(http)
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.failure = f"{act.__name__}: {error!r}"

    def _say(self, http: httpx.Client, session_id: str) -> None:
        text = f"{session_id} heard {next(self._numbers)}"
        body = {"role": "user", "content": text}
        answer = http.post(f"/sessions/{session_id}/messages", json=body)
        assert answer.is_success, answer.text
        self.said.setdefault(session_id, []).append(text)

    def _move(self, http: httpx.Client) -> None:
        for session_id in MOVED:
            self._say(http, session_id)
            call(http, "POST", f"/sessions/{session_id}/archive")
            call(http, "POST", f"/sessions/{session_id}/restore")

    def _fork_and_delete(self, http: httpx.Client) -> None:
        number = next(self._numbers)
        fork = f"fork-{number}"
        call(http, "POST", f"/sessions/{PRODUCED[0]}/fork", json={"new_id": fork})
        self.said[fork] = []
        self._say(http, fork)
        call(http, "POST", f"/sessions/{fork}/archive")
        assert http.delete(f"/sessions/{fork}").status_code == 204
        self.gone.append(fork)
        # One id has many lives.
        http.post("/sessions", json={"id": "again"})
        assert http.delete("/sessions/again").status_code == 204

    def _talk_long(self, http: httpx.Client) -> None:
        """Make so many deltas that the log is compacted soon."""
        text = f"long {next(self._numbers)}"
        body = {"message": text, "session_id": "long", "options": {"delay_ms": 0, "tokens": 1000}}
        call(http, "POST", "/chat", json=body, headers={"Prefer": "wait=60"})
        self.said.setdefault("long", []).append(text)


@dataclass
class Made:
    """A backup, and what was acknowledged before it began."""

    path: Path
    promises: dict[str, list[Promises]]
    said: dict[str, list[str]]
    gone: list[str]


def back_up_under_load(directory: Path, copies: Backups | Dumps, *, rounds: int) -> None:
    with Gateway(directory, copies.settings) as gateway, ExitStack() as stack:
        for name in (*PRODUCED, *MOVED):
            gateway.call("POST", "/sessions", json={"id": name})
        producers = {
            name: [Producer(gateway.url, name, f"{name}.{number}", number) for number in range(2)]
            for name in PRODUCED
        }
        everybody = [producer for some in producers.values() for producer in some]
        churn = Churn(gateway.url)
        for producer in everybody:
            producer.start()
            stack.callback(producer.finish)
        made: list[Made] = []
        with churn.running():
            for number in range(rounds):
                wait_for_more(everybody)
                # What is acknowledged at this moment has not reached its log yet.
                with gateway.held() if number % 2 else nullcontext():
                    to = directory / f"backup-{number}"
                    one = back_up_now(gateway, copies, to, producers, churn)
                made.append(one)
        stack.close()
        origin = {name: events_of(gateway.http, name) for name in sessions_of(gateway.http)}
    for one in made:
        check_restored(directory / "restored", one, origin, copies)
        shutil.rmtree(one.path)


def wait_for_more(producers: list[Producer]) -> None:
    """Let the producers say some more."""

    def said() -> int:
        return sum(len(one.promises.messages) for one in producers)

    enough = said() + 40
    until(lambda: said() > enough, "the producers have said more", COMMAND_SECONDS)


def back_up_now(
    gateway: Gateway,
    copies: Backups | Dumps,
    to: Path,
    producers: dict[str, list[Producer]],
    churn: Churn,
) -> Made:
    promises = {name: [one.promises.now() for one in some] for name, some in producers.items()}
    # Lists that only grow; what was deleted is noted behind what was said.
    gone = list(churn.gone)
    said = {name: list(texts) for name, texts in list(churn.said.items())}
    copies.make(gateway, to)
    return Made(to, promises, said, gone)


def check_restored(
    place: Path, made: Made, origin: dict[str, list[dict[str, Any]]], copies: Backups | Dumps
) -> None:
    """Restore a backup, and read it through a gateway of its own."""
    place.mkdir()
    settings, seen = copies.restore(made.path, place / "data")
    positions = {name: int(position.split("-")[1]) for name, position in seen.items()}
    assert not positions.keys() & set(made.gone)
    with Gateway(place, settings) as gateway:
        listed = sessions_of(gateway.http) | {
            one["session"]["id"]: one["session"]
            for one in call(gateway.http, "GET", "/archive", params={"limit": 1000})["archives"]
        }
        assert listed.keys() == positions.keys()
        for name, last in positions.items():
            whole = events_of(gateway.http, name)
            # Its last ones may be deltas of a run that was at work: the start ended that run and
            # compacted it. Whether something else is missing is seen beside the log's origin.
            assert whole[-1]["seq"] >= last
            log = [event for event in whole if event["seq"] <= last]
            if name in origin and log[0] == origin[name][0]:
                check_prefix(log, origin[name], last)
            texts = texts_in(messages_in(log))
            for text in made.said.get(name, []) if name not in made.gone else []:
                assert texts.count(text) == 1, f"{name}: {text}"
        for name in PRODUCED:
            check_promises(gateway, name, positions[name], made.promises[name])
        for name in MOVED:
            if listed[name]["state"] != "archived":
                check_session(gateway.http, name, [made.said.get(name, [])])
        # A position that somebody has seen of the gateway that went on: the client loads again.
        last_seen = seen[PRODUCED[0]]
        gone = gateway.http.get(f"/sessions/{PRODUCED[0]}/events", params={"after": last_seen})
        assert gone.json()["code"] == "position-gone"
    shutil.rmtree(place)


def check_prefix(log: list[dict[str, Any]], origin: list[dict[str, Any]], last: int) -> None:
    """Check that a log is the beginning of another, but for deltas that were compacted since."""
    kept = {event["seq"] for event in origin if event["seq"] <= last}
    assert {event["type"] for event in log if event["seq"] not in kept} <= DELTAS
    in_both = {event["seq"] for event in log} & kept
    missing = [event for event in origin if event["seq"] <= last and event["seq"] not in in_both]
    assert not [event for event in missing if event["type"] not in DELTAS]
    assert [event for event in log if event["seq"] in in_both] == [
        event for event in origin if event["seq"] in in_both
    ]


def texts_in(messages: list[dict[str, Any]]) -> list[str]:
    return [one["content"] for one in messages if isinstance(one["content"], str)]


def check_promises(gateway: Gateway, name: str, last: int, promises: list[Promises]) -> None:
    log = [event for event in events_of(gateway.http, name) if event["seq"] <= last]
    values = {event["value"]: event["seq"] for event in log if event["type"] == "custom"}
    said = texts_in(messages_in(log))
    queued = [event["messages"] for event in log if event["type"] == "run_queued"]
    waiting = texts_in([message for messages in queued for message in messages])
    runs = {event["run_id"] for event in log if "run_id" in event}
    for promised in promises:
        assert promised.values.keys() <= values.keys()
        assert all(seq in {0, values[value]} for value, seq in promised.values.items())
        assert [text for text in said if text in set(promised.messages)] == promised.messages
        assert set(promised.inputs) <= {*said, *waiting}
        assert set(promised.runs) <= runs


@pytest.mark.timeout(600)
def test_a_command_that_is_killed_leaves_no_backup_and_no_half_store(tmp_path: Path) -> None:
    with Gateway(tmp_path, SETTINGS) as gateway:
        for number in range(300):
            gateway.call("POST", "/sessions", json={"id": f"s-{number}", "title": "t" * 1000})
        data_dir, backup = str(gateway.data_dir), tmp_path / "backup"
        for moment in range(6):
            run_and_kill(["backup", str(backup), "--data-dir", data_dir], tmp_path, moment)
            if not backup.exists():
                refused = bamboo("restore", str(tmp_path / ".backup.unfinished"), "--verify-only")
                # It may be whole, and lack its name alone.
                assert refused.returncode in {0, 2}
                assert refused.returncode == 0 or "no whole backup" in refused.stderr
            else:
                assert bamboo("restore", f"{backup}/", "--verify-only").returncode == 0
                shutil.rmtree(backup)
        assert bamboo("backup", str(backup), "--data-dir", data_dir).returncode == 0
    place = tmp_path / "restored"
    for moment in range(6):
        run_and_kill(["restore", f"{backup}/", "--data-dir", str(place)], tmp_path, moment)
        if (place / "RESTORE-UNFINISHED").exists():
            refused = bamboo("serve", "--data-dir", str(place), "--port", "0")
            assert refused.returncode != 0
            assert "not finished" in refused.stderr
        elif (place / "events").exists():
            assert len(list((place / "events").iterdir())) == 300
            shutil.rmtree(place)
    if not (place / "events").exists() or (place / "RESTORE-UNFINISHED").exists():
        assert bamboo("restore", f"{backup}/", "--data-dir", str(place)).returncode == 0
    assert len(list((place / "events").iterdir())) == 300


def run_and_kill(arguments: list[str], directory: Path, moment: int) -> None:
    """Start a command, and kill it when it has made some number of files."""
    before = files_below(directory)
    process = subprocess.Popen(
        [*BAMBOO, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(
        lambda: files_below(directory) > before + moment * 60 or process.poll() is not None,
        "the command has made some files",
        COMMAND_SECONDS,
    )
    process.send_signal(signal.SIGKILL)
    process.wait(COMMAND_SECONDS)


def files_below(directory: Path) -> int:
    return sum(
        len(list(found.glob("*")))
        for found in (
            directory / ".backup.unfinished" / "events",
            directory / "backup" / "events",
            directory / "restored" / "events",
        )
    )

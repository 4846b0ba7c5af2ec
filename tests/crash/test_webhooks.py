"""Gateway and receiver are killed again and again: every run's end is told, in order (R1, R2)."""

import json
import random
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import BAMBOO, REPOSITORY, Gateway, environment, free_port
from tests.support.waiting import until

SECONDS = 120.0
SESSIONS = ("a", "b", "c", "d")
TERMINAL = {"complete", "error", "cancelled"}
SETTINGS = {
    "BAMBOO_WEBHOOK_PRIVATE_ADDRESSES": "true",
    "BAMBOO_WEBHOOK_RETRY_SECONDS": "0.02,0.05,0.1,0.2",
    "BAMBOO_WEBHOOK_TIMEOUT_SECONDS": "5",
    "BAMBOO_AGENTS": json.dumps({"default": "demo:?delay_ms=1"}),
    "BAMBOO_LOG_LEVEL": "warning",
}


class Receiver:
    """The process that is told."""

    def __init__(self, port: int, secret: str, directory: Path, seed: int) -> None:
        self._arguments = [str(port), secret, str(directory / "received.jsonl"), str(seed)]
        self._log = directory / "received.jsonl"
        self._errors = (directory / "receiver.log").open("ab")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = str(REPOSITORY / "tests" / "crash" / "webhook_receiver.py")
        self.process = subprocess.Popen(
            [sys.executable, program, *self._arguments],
            env=environment(),
            stderr=self._errors,
        )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(SECONDS)
            self.process = None

    def told(self) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        whole = self._log.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]


@contextmanager
def receiving(port: int, secret: str, directory: Path, seed: int) -> Iterator[Receiver]:
    receiver = Receiver(port, secret, directory, seed)
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.kill()
        receiver._errors.close()


def ends(gateway: Gateway, session_id: str) -> list[dict[str, Any]]:
    return [one for one in gateway.events(session_id) if one["type"] in TERMINAL]


def firsts(told: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the first request about each run, by session."""
    found: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for one in told:
        if one["type"] == "run.ended":
            found[one["session_id"]].setdefault(one["run_id"], one)
    return {session_id: list(runs.values()) for session_id, runs in found.items()}


@pytest.mark.parametrize(
    ("storage", "rounds"),
    [
        pytest.param("jsonl:", 10, id="files"),
        pytest.param("sqlite:", 5, id="sqlite"),
        pytest.param("postgresql:", 5, id="postgresql", marks=pytest.mark.external_service),
        pytest.param("jsonl:", 100, id="files-long", marks=pytest.mark.slow),
        pytest.param("sqlite:", 100, id="sqlite-long", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_everything_is_told_in_order(
    tmp_path: Path, storage: str, rounds: int, request: pytest.FixtureRequest
) -> None:
    if storage == "postgresql:":
        storage = request.getfixturevalue("postgres_url")
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    port = free_port()
    settings = {**SETTINGS, "BAMBOO_STORAGE_URL": storage}
    with Gateway(tmp_path, settings) as gateway:
        body = {"url": f"http://127.0.0.1:{port}/", "events": ["run.ended", "session.created"]}
        made = gateway.call("POST", "/webhooks", json=body)
        with receiving(port, made["secret"], tmp_path, seed) as receiver:
            for _ in range(rounds):
                for session_id in chance.sample(SESSIONS, 3):
                    chat = {"session_id": session_id, "message": "hi"}
                    with suppress(httpx.TransportError):
                        gateway.http.post("/chat", json=chat)
                time.sleep(chance.uniform(0, 0.7))  # when it dies is what is tried
                who = chance.choice(("gateway", "gateway", "receiver", "both"))
                if who != "receiver":
                    gateway.kill()
                if who != "gateway":
                    receiver.kill()
                if who != "receiver":
                    gateway.start()
                if receiver.process is None:
                    receiver.start()
            expected = {}
            for session_id in SESSIONS:
                until(partial(is_quiet, gateway, session_id), "the runs have ended", SECONDS)
                expected[session_id] = [one["run_id"] for one in ends(gateway, session_id)]

            def all_told() -> bool:
                known = firsts(receiver.told())
                return all(
                    set(runs) <= {one["run_id"] for one in known.get(session_id, ())}
                    for session_id, runs in expected.items()
                )

            until(all_told, f"everything is told (seed {seed})", SECONDS)
            told = receiver.told()
            log = {session_id: ends(gateway, session_id) for session_id in SESSIONS}
    for session_id, runs in expected.items():
        first = firsts(told).get(session_id, [])
        assert [one["run_id"] for one in first] == runs, f"seed {seed}"
        seqs = [event["seq"] for event in log[session_id]]
        assert [int(one["position"].split("-")[1]) for one in first] == seqs
    ids = defaultdict(set)
    for one in told:
        ids[one["type"], one["session_id"], one.get("run_id")].add(one["id"])
    assert all(len(names) == 1 for names in ids.values()), f"seed {seed}"
    assert len({name for names in ids.values() for name in names}) == len(ids)
    assert sum(map(len, expected.values())) >= rounds


def is_quiet(gateway: Gateway, session_id: str) -> bool:
    answer = gateway.http.get(f"/sessions/{session_id}")
    return answer.status_code == 404 or answer.json()["active_run_id"] is None


def test_what_waits_is_told_after_a_move_to_another_store(tmp_path: Path) -> None:
    """Webhooks, and what they have not been told, are moved with the sessions."""
    port = free_port()
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    with Gateway(before, SETTINGS) as gateway:
        body = {"url": f"http://127.0.0.1:{port}/", "events": ["run.ended", "session.created"]}
        made = gateway.call("POST", "/webhooks", json=body)
        for session_id in SESSIONS:
            gateway.call("POST", "/chat", json={"session_id": session_id, "message": "hi"})
        until(lambda: all(is_quiet(gateway, one) for one in SESSIONS), "the runs end", SECONDS)
        expected = {one: [end["run_id"] for end in ends(gateway, one)] for one in SESSIONS}
        assert gateway.stop() == 0
        source = f"jsonl:{gateway.data_dir}"
    settings = {**SETTINGS, "BAMBOO_STORAGE_URL": "sqlite:"}
    moved = Gateway(after, settings)
    moved.data_dir.mkdir()
    target = f"sqlite:///{moved.data_dir}/sessions.db"
    run([*BAMBOO, "migrate", "data", source, target])
    with moved, receiving(port, made["secret"], tmp_path, 0) as receiver:
        until(
            lambda: (
                {one: len(runs) for one, runs in firsts(receiver.told()).items()}
                == {one: len(runs) for one, runs in expected.items()}
            ),
            "everything is told",
            SECONDS,
        )
        told = firsts(receiver.told())
    assert {one: [run["run_id"] for run in runs] for one, runs in told.items()} == expected


def test_what_waits_in_a_backup_is_told_after_it_is_restored(tmp_path: Path) -> None:
    """A restored gateway tells what its backup had still to tell, each event once, in order."""
    port = free_port()
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    backup = tmp_path / "backup"
    again = Gateway(after, SETTINGS)
    with Gateway(before, SETTINGS) as gateway:
        body = {"url": f"http://127.0.0.1:{port}/", "events": ["run.ended"]}
        made = gateway.call("POST", "/webhooks", json=body)
        for session_id in SESSIONS * 2:
            gateway.call("POST", "/chat", json={"session_id": session_id, "message": "hi"})
        until(lambda: all(is_quiet(gateway, one) for one in SESSIONS), "the runs end", SECONDS)
        expected = {one: [end["run_id"] for end in ends(gateway, one)] for one in SESSIONS}
        run([*BAMBOO, "backup", str(backup), "--data-dir", str(gateway.data_dir)])
    files = [each for each in backup.rglob("*") if each.is_file()]
    assert any(made["secret"].encode() in each.read_bytes() for each in files)
    assert {each.stat().st_mode & 0o777 for each in files} == {0o600}
    run([*BAMBOO, "restore", str(backup), "--data-dir", str(again.data_dir)])
    with again, receiving(port, made["secret"], tmp_path, 0) as receiver:

        def told() -> dict[str, list[str]]:
            found = firsts(receiver.told())
            return {one: [run["run_id"] for run in runs] for one, runs in found.items()}

        until(lambda: sum(map(len, told().values())) >= 8, "everything is told", SECONDS)
        assert told() == expected


def run(command: list[str]) -> None:
    """Run a command to its good end."""
    done = subprocess.run(
        command,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr

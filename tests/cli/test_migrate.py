"""`bamboo migrate data`: what the person who runs it sees, and what clients notice: nothing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def talk(gateway: Gateway) -> None:
    for name in ("plain", "archived", "shared"):
        gateway.call(
            "POST",
            "/chat",
            json={"message": f"hi {name}", "session_id": name, "options": {"delay_ms": 0}},
            headers={"Prefer": "wait=20", "Idempotency-Key": f"key-{name}"},
        )
    gateway.call("POST", "/sessions/archived/archive")
    gateway.call("POST", "/sessions/shared/shares", json={"user_id": "bob"})


def seen(gateway: Gateway) -> dict[str, Any]:
    """Return everything that clients can see."""
    found: dict[str, Any] = {"list": gateway.call("GET", "/sessions")}
    for name in ("plain", "shared"):
        for path in ("", "/messages", "/runs", "/shares"):
            found[name + path] = gateway.http.get(f"/sessions/{name}{path}").content
        for form in ("json", "markdown", "yaml"):
            found[name + form] = gateway.http.get(f"/sessions/{name}/export?format={form}").content
    for name in ("plain", "shared", "archived"):
        found[f"{name} events"] = gateway.http.get(f"/sessions/{name}/events?limit=1000").content
    found["archives"] = gateway.call("GET", "/archive")
    for archived in found["archives"]["archives"]:
        del archived["bytes"]  # compressed once more, in another place
    return found


def test_clients_go_on_after_a_migration_as_if_nothing_had_been(tmp_path: Path) -> None:
    there = f"jsonl:{tmp_path / 'there'}"
    with Gateway(tmp_path) as gateway:
        talk(gateway)
        before = seen(gateway)
        position = gateway.call("GET", "/sessions/plain")["position"]
        assert gateway.stop() == 0
    here = f"jsonl:{gateway.data_dir}"
    dry = bamboo("migrate", "data", here, there, "--dry-run")
    assert dry.returncode == 0
    assert dry.stdout.startswith("Would copy 3 sessions (1 archived) with 3 kept answers: ")
    assert not (tmp_path / "there").exists()
    done = bamboo("migrate", "data", here, there, "--json")
    assert done.returncode == 0, done.stderr
    *digests, summary = map(json.loads, done.stdout.splitlines())
    assert [one["session_id"] for one in digests] == ["archived", "plain", "shared"]
    assert (summary["sessions"], summary["archives"], summary["kept"]) == (3, 1, 0)
    moved = Gateway(tmp_path / "moved", flags=["--storage-url", there])
    moved.data_dir.parent.mkdir()
    with moved as gateway:
        assert seen(gateway) == before
        # A client that has read everything: it gets what is new, and no `reset`.
        gateway.call("POST", "/sessions/plain/messages", json={"role": "user", "content": "more"})
        with gateway.http.stream(
            "GET", "/stream/plain", headers={"Last-Event-ID": position}
        ) as stream:
            kinds: list[str] = []
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    kinds.append(json.loads(line.removeprefix("data: "))["type"])
                if kinds and kinds[-1] == "message":
                    break
        assert kinds == ["open", "message"]
        again = gateway.http.post(
            "/chat",
            json={"message": "hi plain", "session_id": "plain", "options": {"delay_ms": 0}},
            headers={"Idempotency-Key": "key-plain"},
        )
        assert again.headers["Idempotency-Replayed"] == "true"
        gateway.call("POST", "/archive/restore", json={"session_ids": ["archived"]})
        assert gateway.stop() == 0


def test_keys_and_the_ticket_secret_of_a_data_directory_come_along(tmp_path: Path) -> None:
    with Gateway(tmp_path, {"BAMBOO_API_KEYS": "sk-operator"}) as gateway:
        gateway.http.headers["Authorization"] = "Bearer sk-operator"
        gateway.call("POST", "/sessions", json={"id": "s"})
        assert gateway.stop() == 0
    made = bamboo("keys", "create", "--user", "ann", "--data-dir", str(gateway.data_dir))
    assert made.returncode == 0, made.stderr
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    (there / "audit.jsonl").write_text("mine\n")
    done = bamboo("migrate", "data", f"jsonl:{gateway.data_dir}", f"jsonl:{there}")
    assert done.returncode == 0, done.stderr
    assert "Copied too: keys.json" in done.stdout
    for name in ("keys.json", "ticket-secret"):
        if (gateway.data_dir / name).exists():
            assert (there / name).read_bytes() == (gateway.data_dir / name).read_bytes()
            assert (there / name).stat().st_mode & 0o777 == 0o600
    assert (there / "audit.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("jsonl:{here}", "jsonl:{here}", "FROM and TO are the same store"),
        ("jsonl:{here}", "jsonl:{here}/../here/", "FROM and TO are the same store"),
        ("jsonl:{here}", "memory:", "TO: `memory:` keeps nothing"),
        ("jsonl:{here}", "punched-cards:", "storage_url: `punched-cards:` is not supported"),
        ("jsonl:{here}", "postgres://me:hunter2@h/x", "storage_url: write `postgresql://"),
        ("jsonl:{here}", "there", "storage_url: not a storage URL"),
        ("jsonl:{gone}", "jsonl:{there}", "There is no {gone}."),
        ("jsonl:{empty}", "jsonl:{there}", "has no sessions: there is nothing to copy."),
        ("jsonl:{here}", "jsonl:{here}/LOCK/x", "cannot be used: Not a directory"),
    ],
)
def test_what_cannot_be_migrated_is_one_line_and_changes_nothing(
    tmp_path: Path, source: str, target: str, says: str
) -> None:
    places = {name: str(tmp_path / name) for name in ("here", "there", "gone", "empty")}
    with Gateway(tmp_path, flags=["--storage-url", f"jsonl:{places['here']}"]) as gateway:
        gateway.call("POST", "/sessions", json={"id": "s"})
        in_use = bamboo("migrate", "data", f"jsonl:{places['here']}", f"jsonl:{places['there']}")
        assert in_use.returncode == 2
        assert "is in use by the process with pid" in in_use.stderr
        assert gateway.stop() == 0
    Path(places["empty"]).mkdir()
    ended = bamboo("migrate", "data", source.format(**places), target.format(**places))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert says.format(**places) in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
    assert not Path(places["there"]).exists()
    assert not Path(places["gone"]).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_target_without_rights_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with Gateway(tmp_path) as gateway:
        gateway.call("POST", "/sessions", json={"id": "s"})
        assert gateway.stop() == 0
    ended = bamboo(
        "migrate", "data", f"jsonl:{gateway.data_dir}", f"jsonl:{tmp_path / 'locked' / 'x'}"
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "Permission denied" in ended.stderr


def test_progress_is_shown_in_a_terminal_alone(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        for number in range(3):
            gateway.call("POST", "/sessions", json={"id": f"s-{number}"})
        assert gateway.stop() == 0
    arguments = ("migrate", "data", f"jsonl:{gateway.data_dir}", f"jsonl:{tmp_path / 'there'}")
    with Terminal(*arguments, url=gateway.url, kind="xterm") as terminal:
        assert terminal.exit_code() == 0
    assert "copying" in terminal.screen
    assert "comparing" in terminal.screen


def test_new_epochs_are_given_by_hand_in_postgresql_alone(
    tmp_path: Path, postgres_url: str
) -> None:
    """R3: after a dump was restored, clients load again."""
    with Gateway(tmp_path, flags=["--storage-url", postgres_url]) as gateway:
        talk(gateway)
        before = gateway.call("GET", "/sessions/plain")["position"]
        refused = bamboo("migrate", "new-epochs", "--storage-url", postgres_url)
        assert refused.returncode == 2
        assert "gateways use it: process " in refused.stderr
        assert gateway.stop() == 0
        done = bamboo("migrate", "new-epochs", "--storage-url", postgres_url, "--json")
        assert (done.returncode, json.loads(done.stdout)) == (0, {"sessions": 3})
        gateway.start()
        after = gateway.call("GET", "/sessions/plain")["position"]
        epochs = [position.partition("-")[0] for position in (before, after)]
        assert epochs == sorted(set(epochs))
        assert before.partition("-")[2] == after.partition("-")[2]
        assert gateway.stop() == 0
    other = bamboo("migrate", "new-epochs", "--storage-url", f"jsonl:{tmp_path}")
    assert other.returncode == 2
    assert "bamboo doctor --new-epochs" in other.stderr

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that has ended cleanly, with a few sessions on its disk."""
    with Gateway(tmp_path) as gateway:
        for name in ("a", "b"):
            gateway.call(
                "POST",
                "/chat",
                json={"message": "hi", "session_id": name, "options": {"delay_ms": 0}},
                headers={"Prefer": "wait=20"},
            )
        assert gateway.stop() == 0
        yield gateway


def damage(gateway: Gateway) -> None:
    """Turn one bit in the middle of a session's log."""
    path = gateway.data_dir / "events" / "a.jsonl"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_doctor_finds_nothing_after_a_clean_end(stopped: Gateway) -> None:
    ended = bamboo("doctor", "--data-dir", str(stopped.data_dir))
    assert (ended.returncode, ended.stdout) == (0, "Everything is in order.\n")


def test_damage_is_reported_with_its_repair_and_nothing_is_changed(stopped: Gateway) -> None:
    damage(stopped)
    before = {path: path.read_bytes() for path in stopped.data_dir.rglob("*.jsonl")}
    ended = bamboo("doctor", "--data-dir", str(stopped.data_dir))
    assert ended.returncode == 1
    assert "fail  a" in ended.stdout
    assert "to do: " in ended.stdout
    assert "--repair" in ended.stdout
    assert {path: path.read_bytes() for path in stopped.data_dir.rglob("*.jsonl")} == before


def test_after_a_repair_the_gateway_starts_and_clients_are_told_to_reload(stopped: Gateway) -> None:
    epoch = stopped.start().call("GET", "/sessions/a")["position"].split("-")[0]
    assert stopped.stop() == 0
    damage(stopped)
    ended = bamboo("doctor", "--repair", "--json", "--data-dir", str(stopped.data_dir))
    assert ended.returncode == 0
    findings = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(one["subject"], one["repaired"]) for one in findings if one["severity"] == "fail"] == [
        ("a", True)
    ]
    # What was set aside is told, and is no fault.
    again = bamboo("doctor", "--data-dir", str(stopped.data_dir))
    assert again.returncode == 0
    assert "note  quarantine/" in again.stdout
    stopped.start()
    assert stopped.call("GET", "/sessions/a")["position"].split("-")[0] != epoch
    gone = stopped.http.get("/sessions/a/events", params={"after": f"{epoch}-1"})
    assert (gone.status_code, gone.json()["code"]) == (410, "position-gone")
    assert stopped.call("GET", "/sessions/b/messages")["messages"]


def test_new_epochs_has_clients_reload_instead_of_reading_other_content(stopped: Gateway) -> None:
    stopped.start()
    before = stopped.call("GET", "/sessions/b")["position"]
    assert stopped.stop() == 0
    ended = bamboo("doctor", "--new-epochs", "--data-dir", str(stopped.data_dir))
    assert ended.returncode == 0
    assert "Nothing is wrong any more." in ended.stdout
    stopped.start()
    after = stopped.call("GET", "/sessions/b")["position"]
    assert int(after.split("-")[0]) > int(before.split("-")[0])
    assert stopped.http.get("/sessions/b/events", params={"after": before}).status_code == 410


def test_a_directory_that_a_gateway_owns_is_left_alone(stopped: Gateway) -> None:
    stopped.start()
    ended = bamboo("doctor", "--repair", "--data-dir", str(stopped.data_dir))
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert str(stopped.process and stopped.process.pid) in line


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    ended = bamboo("doctor", "--data-dir", str(tmp_path / "nowhere"))
    assert ended.returncode == 2
    assert "nowhere" in ended.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_directory_of_the_environment_is_the_one_that_is_checked(stopped: Gateway) -> None:
    ended = bamboo("doctor", BAMBOO_DATA_DIR=str(stopped.data_dir))
    assert ended.returncode == 0


def test_a_progress_bar_is_shown_on_a_terminal(stopped: Gateway) -> None:
    command = ("doctor", "--data-dir", str(stopped.data_dir))
    with Terminal(*command, url=stopped.url, kind="xterm") as terminal:
        assert terminal.exit_code() == 0
        terminal.until("Everything is in order.")
        assert "2/2" in terminal.screen
    assert bamboo(*command).stderr == ""


def test_doctor_finds_nothing_after_any_requests_and_any_end_of_a_gateway(
    tmp_path: Path,
) -> None:
    settings = {
        "BAMBOO_IDLE_TIMEOUT_SECONDS": "0.2",
        "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.2",
        "BAMBOO_DELTA_RETENTION_SECONDS": "0",
    }
    with Gateway(tmp_path, settings) as gateway:
        ask_for_everything(gateway, "1")
        gateway.kill()
        assert findings_in(gateway) == []
        gateway.start()
        ask_for_everything(gateway, "2")
        assert gateway.stop() == 0
        assert findings_in(gateway) == []
        ended = bamboo("doctor", "--data-dir", str(gateway.data_dir))
        assert (ended.returncode, ended.stdout) == (0, "Everything is in order.\n")


def findings_in(gateway: Gateway) -> list[str]:
    """Return what the doctor finds wrong in the directory of a gateway that has ended."""
    ended = bamboo("doctor", "--json", "--data-dir", str(gateway.data_dir))
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    wrong = [str(one) for one in found if one["severity"] != "note"]
    assert (ended.returncode == 0) == (not wrong)
    return wrong


def ask_for_everything(gateway: Gateway, life: str) -> None:
    """Make requests of every kind that leaves something in the files, with keys and without."""
    keys = (f"{life}.{number}" for number in count())

    def call(method: str, path: str, body: object = None) -> dict[str, Any]:
        headers = {"Idempotency-Key": next(keys), "Prefer": "wait=20"}
        answer: dict[str, Any] = gateway.call(method, path, json=body, headers=headers)
        return answer

    empty, talk, other = f"Empty{life}", f"talk{life}", f"other{life}"
    said = {"role": "user", "content": "hello"}
    call("POST", "/sessions", {"id": empty})
    call("POST", "/chat", {"session_id": talk, "message": "hi", "options": {"delay_ms": 0}})
    call("POST", f"/sessions/{talk}/messages", [said, said])
    call("POST", f"/sessions/{talk}/events", {"type": "custom", "name": "n", "value": 1})
    call("POST", f"/sessions/{empty}/cancel")
    run = call("POST", f"/sessions/{talk}/runs", {"agent": "external"})
    token = {"type": "token", "run_id": run["run_id"], "content": "a"}
    call("POST", f"/sessions/{talk}/events", [token, token])
    call("POST", f"/sessions/{talk}/runs/{run['run_id']}/cancel")
    call("PUT", f"/sessions/{talk}/summary", {"summary": "short"})
    call("POST", f"/sessions/{talk}/fork", {"new_id": other})
    call("POST", f"/sessions/{other}/messages", said)
    call("POST", f"/sessions/{talk}/merge", {"source_id": other, "strategy": "append"})
    call("POST", f"/sessions/{other}/merge", {"source_id": talk, "strategy": "replace"})
    export = gateway.call("GET", f"/sessions/{talk}/export", params={"format": "json"})
    call("POST", "/import?id=new", export)
    call("POST", f"/sessions/{talk}/archive")
    call("POST", f"/sessions/{talk}/restore")
    call("POST", f"/sessions/{talk}/messages", said)
    call("POST", f"/sessions/{other}/archive")
    call("POST", f"/sessions/{empty}/close")
    gateway.call("POST", "/sessions", json={"id": f"gone{life}"})
    gateway.call("DELETE", f"/sessions/gone{life}")
    gateway.call("POST", "/sessions", json={"id": f"gone{life}"})

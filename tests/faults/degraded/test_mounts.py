"""R1, R5: a real file system fills up under a gateway, which can start on it again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Gateway, lacking
from tests.support.waiting import until

SETTINGS = {
    "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.5",
    "BAMBOO_ACCESS_LOG": "false",
}
DISK_MIB = 48
"""Room for two segments of the journal and some MiB of logs."""


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        lacking(f"the right to mount ({done.stderr.strip()})")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system in memory."""
    if os.geteuid() != 0:
        lacking("root, to mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def say(gateway: Gateway, session_id: str, text: str) -> int:
    body = {"role": "user", "content": text}
    return gateway.http.post(f"/sessions/{session_id}/messages", json=body).status_code


def said(gateway: Gateway, session_id: str) -> list[str]:
    """The first words of all messages, by the pages that people read."""
    found: list[str] = []
    after = None
    while True:
        params = {"limit": 100} | ({"after": after} if after else {})
        page = gateway.call("GET", f"/sessions/{session_id}/messages", params=params)
        found += [message["content"].split()[0] for message in page["messages"]]
        after = page["next_cursor"]
        if not page["has_more"]:
            return found


def fill(place: Path) -> Path:
    filler = place / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_gateway_comes_back_on_a_full_disk_with_all_it_acknowledged(
    disk: Path, end: str, tmp_path: Path
) -> None:
    gateway = Gateway(tmp_path, SETTINGS)
    gateway.data_dir = disk / "data"
    with gateway:
        for name in ("s", "gone"):
            gateway.call("POST", "/sessions", json={"id": name})
        options = {"hold": "middle", "delay_ms": 0}
        chat = {"session_id": "run", "message": "x", "options": options}
        run = gateway.call("POST", "/chat", json=chat)
        acknowledged: list[str] = []
        while say(gateway, "s", f"{len(acknowledged)} {'x' * 100_000}") == 201:
            acknowledged.append(str(len(acknowledged)))
        filler = fill(disk)
        assert len(acknowledged) > 20
        assert said(gateway, "s") == acknowledged
        if end == "killed":
            gateway.kill()
        else:
            assert gateway.stop() == 0
        gateway.start()
        assert said(gateway, "s") == acknowledged
        assert gateway.call("GET", f"/sessions/run/runs/{run['run_id']}")["status"]
        assert gateway.http.delete("/sessions/gone").status_code == 204
        assert gateway.http.get("/health/ready").status_code == 200
        filler.unlink()
        mount("-o", f"remount,size={2 * DISK_MIB}m", str(disk))
        until(lambda: say(gateway, "s", "again") == 201, "it writes again by itself")
        until(lambda: gateway.call("GET", "/health/ready")["detail"] == "ready", "and says so")
        path = f"/sessions/run/runs/{run['run_id']}"
        until(lambda: gateway.call("GET", path)["status"] == "interrupted", "the run is closed")
        assert said(gateway, "s") == [*acknowledged, "again"]
        assert gateway.stop() == 0
        gateway.start()
        assert said(gateway, "s") == [*acknowledged, "again"]
        assert gateway.http.get("/sessions/gone").status_code == 404

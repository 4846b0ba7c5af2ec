"""R11: reading a whole session takes some MB of memory, however large the session is."""

import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.domain.limits import MiB
from tests.processes import FreshGateway
from tests.support.waiting import until

BOUND = 64 * MiB
"""What any request and any background work on any session may cost at most."""

KEPT_MAX = 100 * MiB
"""What a process may hold more after many such requests, of any size, than before the first."""

MESSAGE_BYTES = 1_000_000
BODY_MESSAGES = 12
"""Messages in one request: its body is bounded too."""

SESSIONS = pytest.mark.parametrize(
    "megabytes", [72, pytest.param(400, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)


class Process(FreshGateway):
    """A gateway whose memory is looked at."""

    def resident(self) -> int:
        """Return the bytes that it holds now."""
        return self._status("VmRSS")

    def costs(self, call: Callable[[], Any]) -> int:
        """Return the most bytes that it held during a call, above what it held at its start."""
        assert self.process is not None
        before = self.resident()
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")
        call()
        return self._status("VmHWM") - before

    def _status(self, name: str) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"{name}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def number(self, name: str) -> float:
        """Return one number of `/metrics`."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"bamboo_{name} "):
                return float(line.rpartition(" ")[2])
        return 0

    def fill(self, session_id: str, megabytes: int, **fields: Any) -> None:
        """Make a session of large messages: lines, and characters that take four bytes decoded."""
        self.call("POST", "/sessions", json={"id": session_id, **fields})
        line = "Words, and more of them, " * 8 + "until a line is full.\n"
        for start in range(0, megabytes, BODY_MESSAGES):
            said = [
                {
                    "role": "user",
                    "content": f"\U0001f600 {number} " + line * (MESSAGE_BYTES // len(line)),
                }
                for number in range(start, min(start + BODY_MESSAGES, megabytes))
            ]
            self.call("POST", f"/sessions/{session_id}/messages", json=said)

    def download(self, path: str, method: str = "GET", **request: Any) -> tuple[int, int]:
        """Take an answer in pieces; return its size and checksum."""
        size = checksum = 0
        with self.http.stream(method, path, **request) as answer:
            assert answer.status_code == 200
            for chunk in answer.iter_raw():
                size += len(chunk)
                checksum = zlib.crc32(chunk, checksum)
        return size, checksum


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the memory of a process is looked at through /proc")
    settings = {"BAMBOO_EXPORT_DIR": str(tmp_path / "out"), "BAMBOO_DURABILITY": "os"}
    gateway = Process(tmp_path, settings)
    with gateway:
        yield gateway


@SESSIONS
def test_large_exports_forks_merges_and_archives_take_some_megabytes(
    gateway: Process, megabytes: int
) -> None:
    gateway.fill("large", megabytes)
    gateway.fill("other", 1)
    gateway.stop()
    gateway.start()
    # What the first request of all leaves behind is none of theirs.
    gateway.download("/sessions/other/export?format=json")
    size = megabytes * MESSAGE_BYTES * 0.99

    def export(form: str) -> None:
        assert gateway.download(f"/sessions/large/export?format={form}")[0] > size

    def export_zip() -> None:
        body = {"session_ids": ["large", "other"], "format": "json"}
        assert gateway.download("/export", "POST", json=body)[0] > 1000

    def export_file() -> None:
        body = {"path": "large.json", "format": "json"}
        assert gateway.call("POST", "/sessions/large/export", json=body)["bytes"] > size

    def fork(child: str, **wanted: Any) -> None:
        gateway.call("POST", "/sessions/large/fork", json={"new_id": child, **wanted})

    def merge(target: str, strategy: str) -> None:
        body = {"source_id": "large", "strategy": strategy}
        merged = gateway.call("POST", f"/sessions/{target}/merge", json=body)
        assert merged["message_count"] >= megabytes

    def snapshots() -> None:
        # A checkpoint writes those of sessions that have grown, one after the other.
        until(lambda: len(list(snapshot_files())) >= 2, "the snapshots are written")

    def snapshot_files() -> Iterator[Path]:
        for path in (gateway.data_dir / "sessions").glob("*.json"):
            if path.stat().st_size > size:
                yield path

    steps: dict[str, Callable[[], None]] = {
        "export as Markdown": lambda: export("markdown"),
        "export as JSON": lambda: export("json"),
        "export as YAML": lambda: export("yaml"),
        "export as a zip": export_zip,
        "export to a file": export_file,
        "fork at the second message": lambda: fork("second", from_message_index=1),
        "fork of everything": lambda: fork("child"),
        "merge of what is there": lambda: merge("child", "interleave"),
        "merge of everything": lambda: merge("other", "append"),
        "merge in between": lambda: merge("second", "interleave"),
        "merge instead": lambda: merge("second", "replace"),
        "snapshots": snapshots,
        "archive": lambda: gateway.call("POST", "/sessions/large/archive"),
        "export of an archive": lambda: export("json"),
        "restore": lambda: gateway.call("POST", "/sessions/large/restore"),
    }
    costs: dict[str, int] = {}
    first = gateway.resident()
    for name, step in steps.items():
        costs[name] = gateway.costs(step)
        if costs[name] >= BOUND and name.startswith("export"):
            # Of an export that is repeated, what it costs itself is there again. What the allocator
            # had just given back to the machine, and takes again, is not.
            costs[name] = min(costs[name], gateway.costs(step))
        print(f"{name:28} {costs[name] / MiB:6.1f} MiB")
    assert max(costs.values()) < BOUND, costs
    # Nor does it grow from one to the next; what the allocator keeps for later is no leak.
    assert gateway.resident() - first < KEPT_MAX
    assert gateway.stop() == 0

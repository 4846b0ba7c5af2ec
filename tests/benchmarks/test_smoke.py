"""Each benchmark runs at its smallest size: nothing is measured, everything is executed."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.harness import Bench, Row, median_ratio
from benchmarks.loadclient import Readers
from tests.processes import lacking
from tests.support.postgres import found_binaries

# Whole processes, which a busy machine keeps waiting.
pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
FALLBACK = [sys.executable, str(ROOT / "benchmarks/loadclient/fallback.py")]


LACKS = {
    "a C compiler": lambda: shutil.which("cc") is None,
    "PostgreSQL and Redis": lambda: (
        found_binaries() is None or shutil.which("redis-server") is None
    ),
}
NEEDS = {"chat": "a C compiler", "ingest": "a C compiler", "replicas": "PostgreSQL and Redis"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs_and_writes_its_rows(name: str, tmp_path: Path):
    if (need := NEEDS.get(name)) and LACKS[need]():
        lacking(need)
    result = tmp_path / "result.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks", "--smoke", "--only", name),
            *("--json", str(result), "--directory", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(result.read_text(encoding="utf-8"))["results"][name]
    assert rows
    assert all(row["gateway"] for row in rows)
    assert list(tmp_path.iterdir()) == [result]


def test_an_unknown_benchmark_is_refused_with_those_there_are():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 2
    assert "fan_out" in done.stderr


def test_a_goal_bounds_the_ratio_or_the_number_itself():
    assert Row("a", "x", 1, ratio=2.6, goal=">= 2.5").is_met is True
    assert Row("a", "x", 1, ratio=2.4, goal=">= 2.5").is_met is False
    assert Row("a", "x", 17, ratio=0.1, goal="<= 16", goal_is_absolute=True).is_met is False
    assert Row("a", "x", 1, ratio=1).is_met is None


def test_a_round_in_which_a_peer_did_nothing_ends_no_benchmark():
    assert median_ratio([1.0, 2.0, 3.0], [2.0, 0.0, 1.0]) == 3.0
    assert median_ratio([1.0], [0.0]) == math.inf


def test_without_a_compiler_the_client_is_a_python_program(tmp_path: Path):
    chat = {"session_id": "s", "message": "m", "options": {"mode": "loop"}}
    with (
        Bench("smoke", storage="memory:", directory=tmp_path) as bench,
        bench.server("gateway") as server,
    ):
        server.call("POST", "/api/v1/sessions", {"id": "s"})
        with Readers(FALLBACK, server.port, ["/api/v1/stream/s"] * 3) as readers:
            server.call("POST", "/api/v1/chat", chat)
            answer = readers.loop(server.control, 5, 0.1)
        server.tell("go 0")
    assert answer["least"] == answer["most"] == answer["rounds"] * 5

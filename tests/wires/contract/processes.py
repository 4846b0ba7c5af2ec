"""Processes that run the speakers of an official client, each for many conversations."""

import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.processes import environment
from tests.wires import official

_CALL_SECONDS = 60.0
_EXIT_SECONDS = 30


class ClientProcess:
    """A program that takes a line of JSON for each call of a speaker, and answers with another."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._numbers = itertools.count()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="node")
        self._reader.start()

    def call(self, speaker: str, method: str, **options: Any) -> Any:
        """Call a method of a speaker, and return its result."""
        assert self._process.stdin is not None
        number = next(self._numbers)
        line = {"id": number, "speaker": speaker, "method": method, "options": options}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        try:
            text = self._answers.get(timeout=_CALL_SECONDS)
        except queue.Empty:
            raise AssertionError(f"no answer to {method} of {speaker}") from None
        assert text, f"the client ended with {self._process.poll()}"
        answer = json.loads(text)
        assert answer["id"] == number
        assert "failure" not in answer, answer["failure"]
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join(_EXIT_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")


_processes: dict[tuple[str, ...], ClientProcess] = {}


def node_process(module: str, *arguments: str) -> ClientProcess:
    """Return the process of `speak.mjs` with this module, which lives until `close_all`."""
    return _process(official.node(), "speak.mjs", module, *arguments)


def python_process(script: str) -> ClientProcess:
    """Return the process of a script in the environment of the Python clients."""
    return _process(str(official.python()), str(official.PYTHON_DIR / script))


def _process(*command: str) -> ClientProcess:
    if command not in _processes:
        _processes[command] = ClientProcess(command, official.NODE_DIR)
    return _processes[command]


def close_all() -> None:
    """End all processes."""
    while _processes:
        _processes.popitem()[1].close()

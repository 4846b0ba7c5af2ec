"""A process of Node.js that runs the speakers of an official client, for many conversations."""

import itertools
import json
import queue
import subprocess
import threading
from collections.abc import Sequence
from typing import Any

from tests.processes import environment
from tests.wires import official

_CALL_SECONDS = 8.0
_EXIT_SECONDS = 30


class NodeProcess:
    """`speak.mjs` with one module and its arguments."""

    def __init__(self, module: str, arguments: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [official.node(), "speak.mjs", module, *arguments],
            cwd=official.NODE_DIR,
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


_processes: dict[tuple[str, ...], NodeProcess] = {}


def node_process(module: str, *arguments: str) -> NodeProcess:
    """Return the process with this module, which lives until `close_all`."""
    key = (module, *arguments)
    if key not in _processes:
        _processes[key] = NodeProcess(module, arguments)
    return _processes[key]


def close_all() -> None:
    """End all processes."""
    while _processes:
        _processes.popitem()[1].close()

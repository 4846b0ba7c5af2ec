"""A process of Node.js that runs the speakers of an official client, for many conversations."""

import itertools
import json
import subprocess
from collections.abc import Sequence
from typing import Any

from tests.processes import environment
from tests.wires import official

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

    def call(self, speaker: str, method: str, **options: Any) -> Any:
        """Call a method of a speaker, and return its result."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        number = next(self._numbers)
        line = {"id": number, "speaker": speaker, "method": method, "options": options}
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        text = self._process.stdout.readline()
        assert text, f"the client ended with {self._process.poll()}"
        answer = json.loads(text)
        assert answer["id"] == number
        assert "failure" not in answer, answer["failure"]
        return answer["result"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=_EXIT_SECONDS)


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

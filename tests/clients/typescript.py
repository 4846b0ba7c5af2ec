"""The TypeScript client for tests: built once for each state of its sources, and run in Node.js."""

import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.processes import REPOSITORY, environment, lacking, program

PACKAGE = REPOSITORY / "clients" / "typescript"
SOURCES = ("src/*.ts", "package.json", "tsconfig.json")
# A compiler, or a bundler, on a busy machine.
SECONDS = 240


def npm_program(name: str) -> Path:
    """Return a program of the client's development packages, or end the test."""
    found = PACKAGE / "node_modules" / ".bin" / name
    if not found.exists():
        lacking("the npm packages of clients/typescript (`make test` installs them where npm is)")
    return found


def run(command: Sequence[object], directory: Path = PACKAGE, **variables: str) -> str:
    """Return what a program printed to stdout; it has to end well."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def built() -> Path:
    """Compile the client where its sources have changed, and return the folder `dist`.

    Several processes run tests: the first one compiles, the others wait for it.
    """
    compiler = npm_program("tsc")
    node = program("node")
    dist, stamp = PACKAGE / "dist", PACKAGE / "node_modules" / ".built"
    with stamp.with_name(".built.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        digest = _digest()
        if not dist.is_dir() or not stamp.exists() or stamp.read_text("utf-8") != digest:
            stamp.unlink(missing_ok=True)  # until it is whole
            shutil.rmtree(dist, ignore_errors=True)
            run([node, compiler, "--project", PACKAGE])
            stamp.write_text(digest, "utf-8")
    return dist


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern)):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


class NodeProcess:
    """A script that answers each line of JSON with one line."""

    def __init__(self, script: Path, *arguments: str) -> None:
        built()
        self._process = subprocess.Popen(
            [program("node"), str(script), *arguments],
            cwd=PACKAGE,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def ask(self, value: Mapping[str, Any] | Sequence[Any]) -> Any:
        """Return the script's answer to a line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the script has ended"
        return json.loads(line)

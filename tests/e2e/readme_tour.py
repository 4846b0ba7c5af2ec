"""The README's tour as data: its commands in order, and what the page says they print.

Examples that stand beside the tour, in `sh` blocks, are one script.

`python -m tests.e2e.readme_tour` plays the tour on a fresh gateway and puts what came into the
README, so that the page shows real output; and it makes the reference tables anew.
"""

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.processes import REPOSITORY, Gateway, environment
from tests.readme_tables import refresh_tables

README = REPOSITORY / "README.md"
COMMAND_SECONDS = 100
SCRIPT_SECONDS = 250

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What differs from one machine, day and run to the next.
_VOLATILE = [
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"), "TIME"),
    (re.compile(r"\b\d{13,15}-(?=\d)"), "EPOCH-"),
    (re.compile(r"\b(run|msg|call_run)_[0-9a-z]{26}\b"), r"\1_ID"),
    (re.compile(r"\bc_[0-9a-z]+\b"), "c_ID"),
    (re.compile(r"\bs-k?[0-9a-z]{26}\b"), "s-ID"),
    (re.compile(r"\d+\.\d s\b"), "SECONDS"),
    # A short run may be over before a busy machine has opened its stream.
    (re.compile(r'(?<="active_run_id":)(null|"run_ID")'), "RUN"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
]


class Step(NamedTuple):
    """One command as typed, and its output."""

    command: str
    output: str


def steps(page: str) -> list[Step]:
    """Gives the commands of all `console` blocks in order: lines after `$ `, each with its output.

    A line that ends with a backslash goes on in the next.
    """
    return [step for block in _BLOCK.findall(page) for step in _steps_of(block)]


def script(page: str) -> str:
    """Gives all `sh` blocks in order: one of them may use the variables of those before it."""
    return "\n".join(_SCRIPT.findall(page))


def _steps_of(block: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *rest = part.split("\n")
        while command.endswith("\\"):
            command = f"{command}\n{rest.pop(0)}"
        yield Step(command, "\n".join(rest).strip("\n"))


def play(command: str, gateway: Gateway) -> str:
    """Runs a command in a shell, against `gateway` instead of port 8080, and gives its output."""
    here = command.replace("127.0.0.1:8080", f"127.0.0.1:{gateway.port}")
    here = here.replace(" :8080/", f" :{gateway.port}/")
    # httpie reads a body from standard input unless that is a terminal, as it is for a reader.
    ours, theirs = pty.openpty()
    try:
        played = subprocess.run(
            ["bash", "-c", here],
            cwd=REPOSITORY,
            env=environment(BAMBOO_URL=gateway.url, COLUMNS="100"),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    return played.stdout.replace(f":{gateway.port}", ":8080").strip("\n")


def run_script(text: str, gateway: Gateway, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script against `gateway` instead of port 8080, up to the first command that fails.

    An answer that refuses counts as a failure. Each command is told on stderr before it runs.
    """
    where = text.replace("localhost:8080", f"127.0.0.1:{gateway.port}")
    strict = 'set -euo pipefail; curl() { command curl -sS --fail "$@"; }; set -x\n'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", strict + where],
        cwd=directory,
        env=environment(
            BAMBOO_URL=gateway.url, BAMBOO_DATA_DIR=str(gateway.data_dir), PATH=path, COLUMNS="100"
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )


def shape(output: str) -> str:
    """Gives an output with what is different each time replaced by its name."""
    for pattern, name in _VOLATILE:
        output = pattern.sub(name, output)
    return output


def refresh(page: str, gateway: Gateway) -> str:
    """Gives the page with the outputs that the commands have now, where those are others."""

    def replayed(block: re.Match[str]) -> str:
        text = "\n".join(_replayed(step, gateway) for step in _steps_of(block[1]))
        return f"```console\n{text}\n```"

    return _BLOCK.sub(replayed, page)


def _replayed(step: Step, gateway: Gateway) -> str:
    output = play(step.command, gateway)
    if shape(output) == shape(step.output):
        output = step.output  # nothing changed but ids and times
    return f"$ {step.command}\n{output}".rstrip("\n")


if __name__ == "__main__":
    if missing := [tool for tool in ("curl", "http") if shutil.which(tool) is None]:
        sys.exit(f"error: the tour needs {' and '.join(missing)} (httpie); the README is unchanged")
    with tempfile.TemporaryDirectory() as directory, Gateway(Path(directory)) as running:
        page = refresh(README.read_text("utf-8"), running)
        README.write_text(refresh_tables(page), "utf-8")

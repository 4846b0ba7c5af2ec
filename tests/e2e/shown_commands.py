"""The commands that README.md and docs/ show, as data.

`console` blocks are commands with what the page says they print; `sh` blocks of a page are one
script. Each page is played on a fresh gateway. Comments in a page say what a reader does otherwise:

    <!-- gateway: stopped -->     the blocks that follow need a gateway that does not run
    <!-- gateway: started -->     … and these one that runs again
    <!-- not run: REASON -->      the next `sh` block is only checked for its syntax

`python -m tests.e2e.shown_commands` plays every page on a fresh gateway and puts what came into the
page, so that it shows real output; and it makes the tables and the shown files anew.
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

from tests.docs_tables import LLMS, llms_text, pages, refresh_tables
from tests.processes import REPOSITORY, Gateway, environment

COMMAND_SECONDS = 100
SCRIPT_SECONDS = 250

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PART = re.compile(
    r"^<!-- gateway: (?P<gateway>stopped|started) -->$"
    r"|(?P<unrun>^<!-- not run: [^>]+ -->\n+)?^```sh\n(?P<script>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
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


class Script(NamedTuple):
    """`sh` blocks that follow each other.

    Attributes:
        text: The blocks. One of them may use the variables of those before it.
        beside_a_gateway: Whether they need a gateway that runs.
        is_run: Whether a test runs them, or only reads them.
    """

    text: str
    beside_a_gateway: bool = True
    is_run: bool = True


def repeatable_gateway(directory: Path) -> Gateway:
    """Return a gateway whose logs are the same each time, however busy the disk is."""
    return Gateway(directory, flags=("--agent", "default=demo:?coalesce=false"))


def steps(page: str) -> list[Step]:
    """Return the commands of all `console` blocks in order: lines after `$ `, with their outputs.

    A line that ends with a backslash goes on in the next.
    """
    return [step for block in _BLOCK.findall(page) for step in _steps_of(block)]


def scripts(page: str) -> list[Script]:
    """Return the page's `sh` blocks in order; those that can be one script are one."""
    found: list[Script] = []
    runs = True
    for part in _PART.finditer(page):
        if part["gateway"]:
            runs = part["gateway"] == "started"
            continue
        script = Script(part["script"], runs, is_run=part["unrun"] is None)
        if found and script.is_run and found[-1][1:] == script[1:]:
            script = script._replace(text=f"{found.pop().text}\n{script.text}")
        found.append(script)
    return found


def _steps_of(block: str) -> Iterator[Step]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, *rest = part.split("\n")
        while command.endswith("\\"):
            command = f"{command}\n{rest.pop(0)}"
        yield Step(command, "\n".join(rest).strip("\n"))


def play(command: str, gateway: Gateway) -> str:
    """Run a command in a shell, against `gateway` instead of port 8080, and return its output."""
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
    """Run a script against `gateway` instead of port 8080, up to the first command that fails.

    An answer that refuses counts as a failure. Each command is told on stderr before it runs. The
    script has a home of its own, where `~/.bamboo/sessions` is the gateway's data directory.
    """
    where = text.replace("localhost:8080", f"127.0.0.1:{gateway.port}")
    strict = 'set -euo pipefail; curl() { command curl -sS --fail "$@"; }; set -x\n'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sessions = directory / ".bamboo" / "sessions"
    if not sessions.parent.exists():
        sessions.parent.mkdir()
        sessions.symlink_to(gateway.data_dir)
    return subprocess.run(
        ["bash", "-c", strict + where],
        cwd=directory,
        env=environment(
            BAMBOO_URL=gateway.url,
            BAMBOO_DATA_DIR=str(gateway.data_dir),
            HOME=str(directory),
            PATH=path,
            COLUMNS="100",
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS,
        check=False,
    )


def shape(output: str) -> str:
    """Return an output with what is different each time replaced by its name."""
    for pattern, name in _VOLATILE:
        output = pattern.sub(name, output)
    return output


def refresh(page: str, gateway: Gateway) -> str:
    """Return the page with the outputs that the commands have now, where those are others."""

    def replayed(block: re.Match[str]) -> str:
        text = "\n".join(_replayed(step, gateway) for step in _steps_of(block[1]))
        return f"```console\n{text}\n```"

    return _BLOCK.sub(replayed, page)


def _replayed(step: Step, gateway: Gateway) -> str:
    output = play(step.command, gateway)
    if shape(output) == shape(step.output):
        output = step.output  # nothing changed but ids and times
    return f"$ {step.command}\n{output}".rstrip("\n")


def _refresh_page(file: Path) -> None:
    page = refresh_tables(file.read_text("utf-8"))
    if _BLOCK.search(page):
        with (
            tempfile.TemporaryDirectory() as directory,
            repeatable_gateway(Path(directory)) as running,
        ):
            page = refresh(page, running)
    if page != file.read_text("utf-8"):
        file.write_text(page, "utf-8")
        print(f"refreshed {file.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    if missing := [tool for tool in ("curl", "http") if shutil.which(tool) is None]:
        sys.exit(f"error: the tour needs {' and '.join(missing)} (httpie); no page is changed")
    for one in pages():
        _refresh_page(one)
    LLMS.write_text(llms_text(), "utf-8")

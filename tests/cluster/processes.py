"""Gateway processes of which only the store is there: they share a database, live, stop and die."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.sql.postgresql.heartbeat import Timing

REPOSITORY = Path(__file__).parents[2]
TIMING = Timing(renew_seconds=0.3, retry_seconds=0.05)
"""A heart that beats faster than usual."""

# Open the store, say who it is, and keep it open until the input ends.
_MEMBER = """
import asyncio, json, sys, time
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.heartbeat import Timing
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target

def say(**what):
    print(json.dumps(what), flush=True)

async def main(url, timing, alone):
    database = PostgresDatabase(Target(url), timing=Timing(**json.loads(timing)))
    store = PostgresStore(database, SystemClock())
    if alone == "alone":
        store.be_alone()
    try:
        await store.open()
    except BambooError as error:
        say(error=error.detail)
        return
    say(executor=store.replicas.executor, slot=database.heartbeat.slot)
    while line := await asyncio.to_thread(sys.stdin.readline):
        match line.strip():
            case "hang":
                say(hangs=True)
                time.sleep(3600)
            case "leads":
                say(leads=store.replicas.is_leader)
    await store.aclose()

sys.stderr = open(sys.argv[4], "w")
sys.stdout.reconfigure(line_buffering=True)
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main(*sys.argv[1:4]))
"""


@dataclass
class Member:
    """One process."""

    process: "subprocess.Popen[str]"

    def answer(self) -> dict[str, Any]:
        """Return the next line that it says."""
        assert self.process.stdout is not None
        found = codec.decode(self.process.stdout.readline().encode())
        assert isinstance(found, dict)
        return found

    def ask(self, word: str) -> dict[str, Any]:
        """Say something to it, and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        """Let it stand still, as a machine that is suspended."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it; it is a process no more afterwards."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """Let it end in order; return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait()


@contextmanager
def member(
    url: str, directory: Path, timing: Timing = TIMING, *, alone: bool = False
) -> Iterator[Member]:
    """Start a process; what is left of it at the end is killed."""
    number = len(list(directory.glob("member-*")))
    errors = directory / f"member-{number}"
    errors.touch()
    mode = "alone" if alone else "beside"
    command = [sys.executable, "-c", _MEMBER, url, codec.encode(timing._asdict()).decode(), mode]
    with subprocess.Popen(
        [*command, str(errors)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        try:
            yield Member(process)
        finally:
            process.kill()

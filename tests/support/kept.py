"""Servers that end with the tests, however these end, and that run as an ordinary user.

A test process that is killed runs no `finally`, and a database server that it started would stay
for good. So a keeper stands between both (`keeper`): a small process that holds one end of a pipe,
ends the server when the other end closes, and removes its directory when the tests are gone.

Some servers refuse to run as root; where the tests are root, they run as another user.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.processes import environment
from tests.support import keeper

# `postgres` comes with Debian's package; `nobody` is everywhere.
ORDINARY_USERS = ("postgres", "nobody")


def ordinary_user() -> tuple[int, int] | None:
    """Return the user and group that servers run as; None where the tests are no root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = next(known[name] for name in ORDINARY_USERS if name in known)
    return user.pw_uid, user.pw_gid


@contextmanager
def ordinary_directory(prefix: str) -> Iterator[Path]:
    """Make a directory of the ordinary user, with a path short enough for a socket in it."""
    # Not below pytest's own directories: they are root's alone, and their paths are long.
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    if user := ordinary_user():
        os.chown(directory, *user)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run_as_ordinary_user(command: Sequence[str | Path], directory: Path) -> None:
    """Run a command to its end; it must succeed."""
    user = ordinary_user()
    done = subprocess.run(
        command,
        cwd=directory,
        env=service_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
        user=user and user[0],
        group=user and user[1],
        extra_groups=[] if user else None,
    )
    assert done.returncode == 0, f"{command[0]}: {done.stdout}"


def service_environment() -> dict[str, str]:
    """Return an environment without variables that say something to a server or its clients."""
    kept = {name: value for name, value in environment().items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C"}


class Kept:
    """A server with its keeper.

    Attributes:
        pid: The server's process id.
    """

    def __init__(
        self, command: Sequence[str | Path], directory: Path, log: Path, *, end: signal.Signals
    ) -> None:
        user = map(str, ordinary_user() or (-1, -1))
        with log.open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-IS", keeper.__file__, directory, str(int(end)), *user, *command],
                cwd=directory,
                env=service_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        line = self._keeper.stdout.readline()
        assert line, log.read_text(encoding="utf-8", errors="replace")
        self.pid = int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether the server has not ended."""
        return self._keeper.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send the server a signal."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """End the server and wait for its end."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self.wait()
        self._keeper.stdout.close()

    def wait(self) -> None:
        """Wait for the server's end."""
        self._keeper.wait(2 * keeper.END_SECONDS)

"""Runs `bamboo` as a user does: as a program, or as a program in a terminal."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
import threading
from collections.abc import Mapping
from typing import Self

from tests.processes import BAMBOO, REPOSITORY, environment
from tests.support import prefork
from tests.support.waiting import until

COMMAND_SECONDS = 100


def bamboo(
    *arguments: str, url: str | None = None, stdin: str = "", **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; none of its streams is a terminal."""
    variables = environment(**_address(url), **settings)
    return prefork.run(arguments, variables, REPOSITORY, stdin=stdin, timeout=COMMAND_SECONDS)


def fresh_bamboo(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a fresh interpreter, with a pipe for each of its streams."""
    return subprocess.run(
        [*BAMBOO, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


class Terminal:
    """A command in a terminal of its own, whose keys a test presses.

    Attributes:
        screen: Everything the terminal has been sent.
    """

    def __init__(self, *arguments: str, url: str, kind: str = "dumb", columns: int = 200) -> None:
        self._arguments = arguments
        self._environment = environment(**_address(url), TERM=kind, COLUMNS=str(columns))
        self._bytes = bytearray()
        self._reader = threading.Thread(target=self._read, name="terminal")

    def __enter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [*BAMBOO, *self._arguments],
            cwd=REPOSITORY,
            env=self._environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # A session of its own, whose terminal this is: Ctrl-C then reaches it as a signal.
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(theirs)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(COMMAND_SECONDS)
        self._reader.join(COMMAND_SECONDS)
        os.close(self._ours)

    @property
    def screen(self) -> str:
        return self._bytes.decode(errors="replace")

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def until(self, text: str) -> None:
        """Wait until the screen has shown `text`."""
        until(
            lambda: text in self.screen,
            lambda: f"the screen shows {text!r}; it shows {self.screen}",
        )

    def until_line(self, text: str) -> None:
        """Wait until the screen has shown a whole line with `text` in it."""
        until(
            lambda: "\n" in self.screen.partition(text)[2],
            lambda: f"the screen shows a line with {text!r}; it shows {self.screen}",
        )

    def until_asked(self) -> None:
        """Wait for the prompt: keys that come before it are not read like those after it."""
        until(
            lambda: self.screen.endswith("> "),
            lambda: f"the screen ends with a prompt; it shows {self.screen}",
        )

    def exit_code(self) -> int:
        """Wait for the command's end, and until all that it wrote is on the screen."""
        code = self._process.wait(COMMAND_SECONDS)
        self._reader.join(COMMAND_SECONDS)
        return code

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:  # EIO: nobody has the other side open any more
                return
            if not chunk:
                return
            self._bytes += chunk


def _take_terminal() -> None:
    # Between fork and exec, where other threads may hold any lock: nothing is imported here.
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    # Whoever runs the tests in the background has them ignore Ctrl-C; a terminal's programs do not.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _address(url: str | None) -> Mapping[str, str]:
    return {} if url is None else {"BAMBOO_URL": url}

"""`bamboo serve --reload`: a gateway in a child process, begun again when an agent's code changes.

This process reads the settings and watches files; it imports none of the user's code, so that each
child begins with the code of that moment. A child ends as by SIGTERM: running answers get
`drain_timeout_seconds`, and clients reconnect to the next one. Nobody but the operator's terminal
is asked: the log lies in the store, which every child opens again.

Files are looked at by their times. There are few of them, and a look costs microseconds, so that a
library that asks the kernel would be one more compiled package for nothing.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

from bamboo_gateway.cli.output import CommandError, ExitCode, notice
from bamboo_gateway.cli.watched_code import code_of
from bamboo_gateway.settings import Settings

_LOOK_SECONDS: Final = 0.3
"""How often files are looked at: soon enough for people who switch to their browser."""

_FILES_MAX: Final = 5000
"""The most files that are watched: a larger project is watched at its first ones alone."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

Stamps = Mapping[Path, tuple[int, int] | None]
"""Of each watched file its time and size; None where it is not there."""


class Reloader:
    """Runs a gateway in a child process, again after each change of a watched file.

    Args:
        load: Reads the settings anew; the configuration may have changed.
        run: Runs a gateway until it ends and returns its exit code; called in the child.
        config: The TOML file of the settings.
    """

    def __init__(
        self, load: Callable[[], Settings], run: Callable[[], int], config: Path | None
    ) -> None:
        self._load = load
        self._run = run
        self._config = config
        self._watched: tuple[Path, ...] = ()
        self._child: int | None = None
        self._is_ending = False

    def serve(self) -> int:
        """Run until a signal ends it.

        Returns:
            The exit code of the last gateway.
        """
        self._look_again()
        for number in _SIGNALS:
            signal.signal(number, self._pass_on)
        notice(f"files watched: {len(self._watched)}; a change starts the gateway again")
        while True:
            before = _stamps(self._watched)
            code, changed = self._run_once(before)
            if self._is_ending:
                return code
            if changed is None:
                # It could not start, or has failed: only a change of the code can help.
                notice(f"the gateway has ended with {code}; it starts again after a change")
                changed = self._wait_for_change(before)
                if changed is None:
                    return code
            notice(f"{_shown(changed)} has changed; starting again")
            self._look_again()

    def _run_once(self, before: Stamps) -> tuple[int, Path | None]:
        """Run one child to its end; return its exit code, and the file that has ended it."""
        # The child holds one end and notices when this process dies, however it dies.
        theirs, ours = os.pipe()
        # A signal between the fork and the child's own handlers would be lost in this one's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        child = os.fork()
        if child == 0:
            os.close(ours)
            self._be_child(theirs)
        self._child = child
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        os.close(theirs)
        if self._is_ending:
            os.kill(child, signal.SIGTERM)
        ended = _pidfd(child)
        changed: Path | None = None
        try:
            while True:
                found, status = os.waitpid(child, os.WNOHANG)
                if found:
                    code = os.waitstatus_to_exitcode(status)
                    # It was asked to end before it had begun.
                    return (0 if code == -signal.SIGTERM else code), changed
                _wait(ended)
                if changed is None and not self._is_ending:
                    changed = _difference(before, _stamps(self._watched))
                    if changed is not None:
                        os.kill(child, signal.SIGTERM)
        finally:
            self._child = None
            os.close(ours)
            if ended is not None:
                os.close(ended)

    def _be_child(self, parent: int) -> None:
        """Run the gateway in the forked process, and end the process with its exit code."""
        code = 1
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            # The terminal's Ctrl-C reaches the parent alone, which passes it on once.
            os.setpgid(0, 0)
            threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
            code = self._run()
        except CommandError as error:
            sys.stderr.write(f"error: {error.line}\n")
            code = error.exit_code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            # Not `sys.exit`: what stands below on this stack is the parent's.
            os._exit(code)

    def _wait_for_change(self, before: Stamps) -> Path | None:
        while not self._is_ending:
            if changed := _difference(before, _stamps(self._watched)):
                return changed
            _wait(None)
        return None

    def _look_again(self) -> None:
        """Find the files to watch; a configuration with a fault leaves them as they are."""
        try:
            settings = self._load()
        except CommandError:
            return
        found = set(code_of(settings.agents.values()))
        if self._config is not None:
            found.add(self._config.absolute())
        self._watched = tuple(sorted(found)[:_FILES_MAX])

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_ending = True
        if self._child is not None:
            os.kill(self._child, signal.SIGTERM)


def check_reload(settings: Settings, config: Path | None) -> None:
    """Check that starting again makes sense.

    Raises:
        CommandError: It does not; the message says why and what to do.
    """
    reason = None
    if not hasattr(os, "fork"):
        reason = "this system cannot fork; start the gateway again by hand"
    elif not list(code_of(settings.agents.values())) and config is None:
        reason = (
            "there is nothing to watch: give it an agent of your own "
            "(--agent default=python:my_agent:answer) or a file of settings (--config)"
        )
    elif settings.storage.scheme == "memory":
        reason = "`memory:` would lose every session with each change; use `jsonl:` or `sqlite:`"
    elif settings.port == 0:
        reason = "port 0 would be another port after each change; choose one with --port"
    if reason is not None:
        raise CommandError(f"--reload: {reason}", ExitCode.USAGE)


def _end_with(parent: int) -> None:
    """End this process in order when the parent has died, whatever it died of."""
    os.read(parent, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def _pidfd(child: int) -> int | None:
    """Return a file that is readable once the child has ended, where the kernel has such files."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(child)
    except OSError:
        return None


def _wait(ended: int | None) -> None:
    """Wait for the next look, or until the child has ended."""
    select.select([ended] if ended is not None else [], [], [], _LOOK_SECONDS)


def _stamps(files: tuple[Path, ...]) -> Stamps:
    return dict(_stamped(files))


def _stamped(files: tuple[Path, ...]) -> Iterator[tuple[Path, tuple[int, int] | None]]:
    for file in files:
        try:
            found = file.stat()
        except OSError:
            yield file, None  # editors remove a file for a moment
        else:
            yield file, (found.st_mtime_ns, found.st_size)


def _difference(before: Stamps, now: Stamps) -> Path | None:
    """Return a file that has changed; one that is not there at the moment has not, yet."""
    return next(
        (file for file, stamp in now.items() if stamp is not None and stamp != before.get(file)),
        None,
    )


def _shown(file: Path) -> str:
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)

"""Checks the files of sessions without changing them, for `doctor` and for a running store."""

from collections import deque
from collections.abc import Iterable
from pathlib import Path

from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import BundleView
from bamboo_gateway.storage.jsonl.log.log import LogReplacedError, LogView
from bamboo_gateway.storage.jsonl.log.reader import DamagedError, is_note, lines_from, seq_of
from bamboo_gateway.storage.jsonl.paths import Paths, file_name


def names_on_disk(fs: FileSystem, paths: Paths) -> set[str]:
    """Return the file names of all sessions with a log or a bundle."""
    return {
        file.removesuffix(suffix)
        for directory, suffix in ((paths.events, ".jsonl"), (paths.archive, ".zst"))
        for file in fs.names(directory)
        if file.endswith(suffix)
    }


def compare(fs: FileSystem, paths: Paths, session_ids: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the sessions without a file, and the file names without a session."""
    by_name = {file_name(session_id): session_id for session_id in session_ids}
    names = names_on_disk(fs, paths)
    return {by_name[name] for name in by_name.keys() - names}, names - by_name.keys()


def check_lines(view: LogView) -> tuple[str | None, int]:
    """Check the order of a log's lines; return the problem found, if any, and the last seq.

    Raises:
        DamagedError: A line has a wrong checksum.
    """
    seq = 0
    for offset, line in lines_from(view, view.begin):
        number = seq_of(line)
        if number is None and not is_note(line):
            return f"no event at byte {offset}", seq
        if number is not None and number <= seq:
            return f"seq {number} after {seq} at byte {offset}", seq
        seq = number or seq
    return None, seq


def problem_of_bundle(fs: FileSystem, path: Path, epoch: int) -> str | None:
    """Read a whole bundle; return the problem found, or None."""
    try:
        view = BundleView(fs, path, epoch)
        try:
            # Reading the blocks checks their checksums.
            deque(view.blocks(), maxlen=0)
            deque(view.mark_blocks(), maxlen=0)
        finally:
            view.close()
    except FileNotFoundError:
        return "its bundle is missing"
    except (DamagedError, LogReplacedError):
        return "its bundle is damaged"
    return None

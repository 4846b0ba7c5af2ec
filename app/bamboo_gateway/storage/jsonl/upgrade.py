"""The check of mark files that the first start on an earlier gateway's directory makes, once.

When an earlier gateway was killed at a bad moment, a mark file could have some marks twice, or lack
some (it took the catalog's state one turn of the loop too late; see `Maintenance`). Messages were
then doubled or missing wherever they are read by their marks. The logs were always right. So all
mark files of such a directory are rebuilt at their first use. This check reports which ones did not
fit, and has the snapshots made from them written again.
"""

from contextlib import suppress
from dataclasses import dataclass

from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.marks import MarksFile, StaleMarksError
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.snapshots import remove_repeated_lines


@dataclass(slots=True)
class Upgrade:
    """Checks the mark files in recovery, before any record is replayed."""

    fs: FileSystem
    paths: Paths

    def check(self, entry: Entry, head: SessionHead | None) -> bool:
        """Have the mark file of a session rebuilt; return whether it was correct.

        Args:
            entry: The session's entry in the catalog; a bundle has correct marks of its own.
            head: The head that belongs to this entry.

        Raises:
            OSError: A file cannot be read.
        """
        if entry.bundle:
            return True
        fits = self._fits(entry, head)
        entry.marks = -1
        if not fits:
            # A snapshot has the messages that the marks led to. On a full disk it stays as it is,
            # but it is due for a new one all the same.
            with suppress(OSError):
                remove_repeated_lines(self.fs, self.paths, file_name(entry.id))
            entry.snapshot = 0
        return fits

    def _fits(self, entry: Entry, head: SessionHead | None) -> bool:
        """Return whether the marks rise, and lead to as many messages as the head counts."""
        if entry.marks < 0 or head is None:
            return True
        path = self.paths.marks_of(file_name(entry.id))
        messages, last = 0, -1
        current = path_of(head)
        try:
            marks = MarksFile(self.fs, path, entry.epoch, entry.marks)
            try:
                for seq, offset, _, kind in marks.blocks(0, entry.marks, reverse=False):
                    if offset <= last:
                        return False
                    last = offset
                    messages += kind == "message" and seq in current
            finally:
                marks.close()
        except StaleMarksError:
            return False
        return messages == head.message_count

"""What the first start on an earlier gateway's directory looks through, once.

Earlier gateways could be killed in a moment that left a sidecar with some marks twice, or without
some (see `Maintenance`: they took the catalog's state one turn of the loop late). Then messages
stood twice, or were missing, wherever they are read by their marks. The logs were right all the
time, so every sidecar of such a directory is built again at its first use; which ones did not fit
is said, and what was made of those is made again.
"""

from contextlib import suppress
from dataclasses import dataclass

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.jsonl.files import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.marks import MarksFile, StaleMarksError
from bamboo_gateway.storage.jsonl.paths import Paths, file_name
from bamboo_gateway.storage.jsonl.snapshots import take_out_doubles


@dataclass(slots=True)
class Upgrade:
    """See the module. Used in recovery, before any record is replayed."""

    fs: FileSystem
    paths: Paths

    def bring_up(self, entry: Entry, head: SessionHead | None) -> bool:
        """Have a session's sidecar built again; return whether it did fit as it was.

        Args:
            entry: The session, as the catalog has it; bundles have right marks of their own.
            head: Its head as of that.

        Raises:
            OSError: A file cannot be read.
        """
        if entry.bundle:
            return True
        fits = self._fits(entry, head)
        entry.marks = -1
        if not fits:
            # A snapshot has the messages that the marks lead to. On a full disk it stays as it is,
            # and is due all the same.
            with suppress(OSError):
                take_out_doubles(self.fs, self.paths, file_name(entry.id))
            entry.snapshot = 0
        return fits

    def _fits(self, entry: Entry, head: SessionHead | None) -> bool:
        """Return whether the marks rise, and lead to as many messages as the head counts."""
        if entry.marks < 0 or head is None:
            return True
        path = self.paths.marks_of(file_name(entry.id))
        messages, last = 0, -1
        try:
            marks = MarksFile(self.fs, path, entry.epoch, entry.marks)
            try:
                for seq, offset, _, kind in marks.blocks(0, entry.marks, reverse=False):
                    if offset <= last:
                        return False
                    last = offset
                    messages += kind == "message" and seq > head.history_from
            finally:
                marks.close()
        except StaleMarksError:
            return False
        return messages == head.message_count

"""The audit log: who did what to what, a JSON object a line, appended and never changed.

The file is opened for each record: there are few, and whoever rotates it by renaming (logrotate,
without `copytruncate`) needs to tell nobody. Others may not read it (0600).
"""

import os
from pathlib import Path
from typing import Any

import structlog
from anyio import to_thread

from app.domain.codec import encode

log = structlog.get_logger(__name__)


class AuditLog:
    """See the module.

    Args:
        path: The file; made with its first record.

    Attributes:
        failures: Records that could not be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failures = 0

    async def append(self, record: dict[str, Any]) -> None:
        """Writes one record, as one write, before it returns.

        What is recorded has happened and is not undone for a full disk: that is told in the log
        and counted.
        """
        line = encode(record) + b"\n"
        try:
            await to_thread.run_sync(self._write, line)
        except OSError as error:
            self.failures += 1
            log.error("an audit record was not written", why=error.strerror, **record)  # noqa: TRY400

    def _write(self, line: bytes) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

"""The audit log: who did what to which session or key. One JSON object a line, never changed.

The file is opened for each record. There are few of them; so a file that logrotate has renamed
(without `copytruncate`) needs no signal, and commands can append beside the gateway. Other users of
the machine cannot read the file (0600).
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from anyio import to_thread

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import encode

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One line. It holds names, and never a secret or the content of a session.

    Attributes:
        at_ms: The time, in ms since 1970.
        action: The requested action.
        outcome: Its result.
        status: The HTTP status; None if the action was no request.
        code: The code of the error, if the action was refused or failed.
        caller: The caller's id as in the log: `gateway` for scheduled work, `uid:…` for a command.
        user_id: The user that the action was done for; None for the operator.
        credential: The name of the caller's credential.
        remote_address: The caller's network address.
        targets: The sessions or keys that were changed.
        failed_targets: The sessions or keys that should have been changed.
        request_id: The id of the request.
    """

    at_ms: int
    action: str
    outcome: Literal["done", "refused", "failed"] = "done"
    status: int | None = None
    code: str | None = None
    caller: str | None
    user_id: str | None = None
    credential: str | None = None
    remote_address: str | None = None
    targets: Sequence[str] = ()
    failed_targets: Sequence[str] = ()
    request_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record as it is written."""
        members = asdict(self)
        return {"time": format_ms(members.pop("at_ms")), **members}


class AuditLog:
    """Appends records to the audit file.

    Args:
        path: The file; the first record creates it.

    Attributes:
        failures: How many records could not be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.failures = 0

    async def append(self, record: AuditRecord) -> None:
        """Write one record, and return when it is written.

        The action has happened and stays, even when the disk is full. A failed write is logged and
        counted.
        """
        try:
            await to_thread.run_sync(self.write, record)
        except OSError as error:
            self.failures += 1
            fields = record.to_json()
            log.error("an audit record was not written", why=error.strerror, **fields)  # noqa: TRY400

    def write(self, record: AuditRecord) -> None:
        """Write one record in one `write` call, since several processes may append. Blocks.

        Raises:
            OSError: The record was not written.
        """
        line = encode(record.to_json()) + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

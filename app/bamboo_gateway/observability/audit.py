"""The audit log: who did what to what, a JSON object a line, appended and never changed.

The file is opened for each record: there are few, whoever rotates it by renaming (logrotate,
without `copytruncate`) needs to tell nobody, and commands append to it beside the gateway. Others
may not read it (0600).
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
    """One line: names, and never a secret or what was said in a session.

    Attributes:
        at_ms: When, in ms since 1970.
        action: What was to be done.
        outcome: What became of it.
        status: What HTTP answered; None where nobody asked by HTTP.
        code: The error's, where it was refused or failed.
        caller: Who: as in the log, `gateway` for scheduled work, `uid:…` for a command.
        user_id: The user it was done for; None: the operator.
        credential: What the caller came with.
        remote_address: Where he came from.
        targets: The sessions, or keys, that it was done to.
        failed_targets: Those that it was to be done to.
        request_id: The request's.
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
        """Gives it as it is written."""
        members = asdict(self)
        return {"time": format_ms(members.pop("at_ms")), **members}


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

    async def append(self, record: AuditRecord) -> None:
        """Writes one record before it returns.

        What is recorded has happened and is not undone for a full disk: that is told in the log
        and counted.
        """
        try:
            await to_thread.run_sync(self.write, record)
        except OSError as error:
            self.failures += 1
            told = record.to_json()
            log.error("an audit record was not written", why=error.strerror, **told)  # noqa: TRY400

    def write(self, record: AuditRecord) -> None:
        """Writes one record, as one write: several processes may. Blocking.

        Raises:
            OSError: It was not written.
        """
        line = encode(record.to_json()) + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)

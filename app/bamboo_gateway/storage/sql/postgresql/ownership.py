"""Who owns the database: one gateway process at a time, in this version.

A row of `meta` names the owner and has a counter that the owner moves every few seconds. Locks of a
connection are of no use here, since PgBouncer gives every transaction another connection. No
clocks are compared: an owner is dead when its counter has not moved while somebody else watched it
for `DEAD_SECONDS`.

An owner on the same machine is known to be dead at once, by its process id. So a gateway that is
started again right after `kill -9` does not wait.

Every commit checks in its own statement that the row still names its process (`statements`).
Somebody whose process was suspended for a while writes nothing after another one took over.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any, Final

import structlog

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.sql.postgresql.connections import Driver

log = structlog.get_logger(__name__)

RENEW_SECONDS: Final = 3.0
DEAD_SECONDS: Final = 12.0
_LOOK_SECONDS: Final = 0.5

_FIND = "SELECT text, number FROM meta WHERE name = 'owner'"
_CLAIM = """\
INSERT INTO meta (name, number, text) VALUES ('owner', 0, %(mine)s)
ON CONFLICT (name) DO UPDATE SET number = 0, text = excluded.text
  WHERE meta.text = %(theirs)s AND meta.number = %(counter)s
RETURNING 1"""
_RENEW = "UPDATE meta SET number = number + 1 WHERE name = 'owner' AND text = %s"
_RELEASE = "DELETE FROM meta WHERE name = 'owner' AND text = %s"


class Ownership:
    """This process's claim to a database.

    Attributes:
        owner: What `meta.text` has while the claim holds.
        is_lost: Whether another process has taken the database over.
    """

    def __init__(self, claim_id: str, dead_seconds: float = DEAD_SECONDS) -> None:
        """Make a claim; `claim_id` is different for each."""
        self._dead_seconds = dead_seconds
        self.owner = codec.encode({"claim": claim_id, **_process()}).decode()
        self.is_lost = False

    def take(self, connection: Driver) -> bool:
        """Take the database, after a dead owner if need be; return whether the last one closed it.

        Raises:
            StoreBusy: A living process owns it.
        """
        seen: tuple[str, int] | None = None
        dead_at = 0.0
        while True:
            row = connection.execute(_FIND).fetchone()
            found = None if row is None else (str(row[0]), int(row[1]))
            if found is not None and not _is_dead_here(found[0]):
                now = time.monotonic()
                if seen is None:
                    log.info("waiting for the last owner of the database", owner=_named(found[0]))
                if seen is None or found[0] != seen[0]:
                    seen, dead_at = found, now + self._dead_seconds
                elif found != seen:
                    raise StoreBusy(
                        f"The database belongs to a gateway that runs: {_named(found[0])}. Stop it "
                        "first, or give this one a database of its own."
                    )
                if now < dead_at:
                    time.sleep(_LOOK_SECONDS)
                    continue
            theirs, counter = found or (None, None)
            values = {"mine": self.owner, "theirs": theirs, "counter": counter}
            if connection.execute(_CLAIM, values).fetchone():
                return found is None
            # Somebody else was faster, or the owner has moved: look again.

    def renew(self, connection: Driver) -> None:
        """Move the counter, or find out that somebody else owns the database."""
        if not connection.execute(_RENEW, [self.owner]).rowcount and not self.is_lost:
            self.is_lost = True
            log.error("another process has taken over the database; this one has to end")

    def release(self, connection: Driver) -> None:
        """Give the database back."""
        connection.execute(_RELEASE, [self.owner])


def _process() -> dict[str, Any]:
    """Return what names this process, for people and for others on the same machine."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": _machine(),
        "started": _start_of(pid),
    }


def _machine() -> str | None:
    """Return what processes have in common that can see one another's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Return when a process began, which tells it from a later one of the same id."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program is in parentheses and may have any character.
    return text.rpartition(")")[2].split()[19]


def _is_dead_here(owner: str) -> bool:
    """Return whether the owner ran on this machine and has ended."""
    known = _read(owner)
    machine, pid = known.get("machine"), known.get("pid")
    if machine is None or machine != _machine() or not isinstance(pid, int):
        return False
    return _start_of(pid) != known.get("started")


def _named(owner: str) -> str:
    known = _read(owner)
    return f"process {known.get('pid', '?')} on {known.get('host', '?')}"


def _read(owner: str) -> dict[str, Any]:
    try:
        known = codec.decode(owner.encode())
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}

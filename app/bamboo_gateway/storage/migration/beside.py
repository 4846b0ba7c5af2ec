"""Files that lie beside the sessions of a data directory: keys, the ticket secret, the audit log.

A directory that another takes the place of has to bring them along: credentials, tickets and
cookies stay valid.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from bamboo_gateway.domain.errors import StorageFailed

NAMES: Final = ("keys.json", "ticket-secret", "audit.jsonl")


def copy_beside(source: Path, target: Path) -> list[str]:
    """Copy the files that the target does not have; each one appears whole or not at all.

    Returns:
        The names of those that were copied.

    Raises:
        StorageFailed: One could not be copied.
    """
    copied = []
    for name in NAMES:
        try:
            if _copy(source / name, target / name):
                copied.append(name)
        except OSError as error:
            raise StorageFailed(f"{name} could not be copied: {error.strerror}.") from error
    return copied


def _copy(source: Path, target: Path) -> bool:
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        return False
    aside = target.with_name(f".{target.name}.aside")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, it never replaces one that is there.
        os.link(aside, target)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):
            aside.unlink()
    return True

"""The manifest of a backup, `backup.json`: written last, it lists every file with its digest.

Its own digest is its last member, and its bytes are compared with what the gateway writes. So a
changed byte is noticed wherever it lies: in a file, in a digest, or in the manifest itself.
"""

import re
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Final

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import BambooError

NAME: Final = "backup.json"
FORMAT: Final = 1
FILES: Final = ("keys.json", "audit.jsonl")
"""The files beside the sessions that a backup may have."""

# At most one directory, and nothing that leads out of the backup, whoever wrote the manifest.
_PATH: Final = re.compile(r"(?:[a-z]{1,32}/)?[A-Za-z0-9%~_-][A-Za-z0-9%~._-]{0,254}")


class BackupDamaged(BambooError):
    """The backup is not what was written; `detail` names the first file that differs."""

    code = "backup-damaged"


@dataclass(frozen=True, slots=True)
class BackupFile:
    """One file of a backup.

    Attributes:
        path: Its path below the backup.
        bytes: Its size.
        sha256: The digest of its content, in hex.
        session_id: The session whose log it holds; None for other files.
        position: The position of the last event in it.
    """

    path: str
    bytes: int
    sha256: str
    session_id: str | None = None
    position: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the file as the manifest lists it."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is and has.

    Attributes:
        store: The kind of the store: `jsonl` or `sqlite`.
        version: The version of the gateway that made it.
        began_at: When it was begun. Everything that was acknowledged before is in it.
        made_at: When it was whole.
        sessions: How many sessions it has.
        last_epoch: The highest epoch in it.
        files: Its files.
    """

    store: str
    version: str
    began_at: str
    made_at: str
    sessions: int
    last_epoch: int
    files: tuple[BackupFile, ...]

    @property
    def total_bytes(self) -> int:
        """The bytes of all files."""
        return sum(file.bytes for file in self.files)

    def encoded(self) -> bytes:
        """Return the content of the manifest."""
        shape: dict[str, Any] = {
            "backup": FORMAT,
            "store": self.store,
            "version": self.version,
            "began_at": self.began_at,
            "made_at": self.made_at,
            "sessions": self.sessions,
            "last_epoch": self.last_epoch,
            "files": [file.to_json() for file in self.files],
        }
        return codec.encode_pretty({**shape, "digest": sha256(codec.encode(shape)).hexdigest()})

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """Read the content of a manifest.

        Raises:
            BackupDamaged: It is not what `encoded` wrote, or of another format.
        """
        try:
            manifest, kind = cls._decoded(data)
            is_unchanged = kind != FORMAT or manifest.encoded() == data
            is_safe = all(
                _PATH.fullmatch(file.path) and file.path != NAME for file in manifest.files
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BackupDamaged(f"{NAME} cannot be read: it is no manifest.") from error
        if kind != FORMAT:
            raise BackupDamaged(
                f"{NAME} has the format {kind}, and this gateway reads the format {FORMAT}: "
                f"restore it with the gateway {manifest.version} that made it."
            )
        if not is_unchanged:
            raise BackupDamaged(f"{NAME} was changed: its digest does not match.")
        if not is_safe:
            raise BackupDamaged(f"{NAME} names a file that no backup has.")
        return manifest

    @classmethod
    def _decoded(cls, data: bytes) -> tuple["Manifest", object]:
        shape = codec.decode(data)
        kind = shape.pop("backup")
        del shape["digest"]  # it is compared together with all the rest
        files = tuple(BackupFile(**file) for file in shape.pop("files"))
        return cls(**shape, files=files), kind

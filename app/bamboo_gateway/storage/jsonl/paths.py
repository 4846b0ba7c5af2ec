"""The layout of a data directory, and how a session's id becomes a file name (R13)."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

# A name with its longest suffix stays below the 255 bytes that common file systems allow.
_NAME_BYTES_MAX = 200
_KEPT_BYTES = 150


def file_name(session_id: str) -> str:
    """Return the name of a session's files, without suffix.

    Capitals are percent-encoded, so that `A` and `a` are two files on every file system. Every
    character that is not a letter, a digit, `.`, `_` or `-` is encoded too, so that no id can build
    a path. A name that is too long is cut and gets `~` and a digest of the id; no other name
    contains a `~`. The file's header holds the whole id.
    """
    name = "".join(_encoded(character) for character in session_id)
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= _NAME_BYTES_MAX:
        return name
    return f"{name[:_KEPT_BYTES]}~{sha256(session_id.encode()).hexdigest()[:32]}"


def _encoded(character: str) -> str:
    if character.isascii() and (character.islower() or character.isdigit() or character in "._-"):
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode())


def root_of(data_dir: Path) -> Path:
    """Return the real directory behind `data_dir`, which may be a link; nothing below it may be."""
    return Path(os.path.realpath(data_dir.expanduser()))


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout of a data directory."""

    root: Path

    @property
    def lock(self) -> Path:
        """The lock file, which names the owning process."""
        return self.root / "LOCK"

    @property
    def events(self) -> Path:
        """The logs."""
        return self.root / "events"

    @property
    def snapshots(self) -> Path:
        """Snapshots, for people and rebuilds."""
        return self.root / "sessions"

    @property
    def index(self) -> Path:
        """Everything that can be rebuilt from the logs, and the journal."""
        return self.root / "index"

    @property
    def marks(self) -> Path:
        """The mark files: offsets of messages, run events and notes in each log."""
        return self.index / "marks"

    @property
    def aside(self) -> Path:
        """Files being written or removed; the store empties it at the start."""
        return self.index / "aside"

    @property
    def archive(self) -> Path:
        """Bundles of archived sessions."""
        return self.root / "archive"

    @property
    def quarantine(self) -> Path:
        """Bytes that could not be read, each with a note."""
        return self.root / "quarantine"

    @property
    def catalog(self) -> Path:
        """The catalog: the heads of all sessions."""
        return self.index / "catalog.jsonl"

    @property
    def migration(self) -> Path:
        """The file that a directory has while sessions are being copied into it."""
        return self.root / "MIGRATION"

    @property
    def values(self) -> Path:
        """The values beside the sessions, a database; beside it are `-wal` and `-shm`."""
        return self.root / "values.sqlite"

    @property
    def mended_values(self) -> Path:
        """What could be read of damaged values, until it has taken their place."""
        return self.root / "values.sqlite-mended"

    @property
    def search_database(self) -> Path:
        """The messages of all sessions, for searches; beside it are `-wal` and `-shm`."""
        return self.index / "search.sqlite"

    @property
    def reserve(self) -> Path:
        """Space that is kept free for terminal events when the disk is full."""
        return self.index / "reserve"

    def directories(self) -> tuple[Path, ...]:
        """Return all directories, parents first."""
        return (
            self.root,
            self.events,
            self.snapshots,
            self.index,
            self.marks,
            self.aside,
            self.archive,
            self.quarantine,
        )

    def of_sessions(self) -> tuple[Path, ...]:
        """Return the directories that hold one file per session."""
        return (self.events, self.marks, self.snapshots, self.archive, self.quarantine)

    def log_of(self, name: str) -> Path:
        """Return the log of the session with that file name."""
        return self.events / f"{name}.jsonl"

    def snapshot_of(self, name: str) -> Path:
        """Return the snapshot of the session with that file name."""
        return self.snapshots / f"{name}.json"

    def marks_of(self, name: str) -> Path:
        """Return the marks of the session with that file name."""
        return self.marks / f"{name}.idx"

    def archive_of(self, name: str) -> Path:
        """Return the archive bundle of the session with that file name."""
        return self.archive / f"{name}.zst"

    def held_of(self, name: str) -> Path:
        """Return the file that holds the last lines of a log that cannot be written."""
        return self.index / f"held-{name}.jsonl"

    def segment(self, number: int) -> Path:
        """Return the journal segment with that number."""
        return self.index / f"journal-{number:012d}.jsonl"

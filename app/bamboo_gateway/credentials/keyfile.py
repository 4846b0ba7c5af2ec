"""The keys file: the digests of all keys, in JSON that people can read.

The file is replaced as a whole and never changed in place, so that a reader sees either the old or
the new state. A change holds a lock on the file's directory, because of two changes at once one
would be lost.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.callers import Right
from bamboo_gateway.domain.clock import format_ms, parse_ms
from bamboo_gateway.domain.codec import decode, encode_pretty
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.ids import check_user_id

KEYS_MAX: Final = 10_000
"""The most keys of one gateway, revoked ones included: some megabytes, read again at each change.
An operator with more users has an identity provider, and uses its tokens."""

_MODE: Final = 0o600
_OTHERS_MAY_WRITE: Final = 0o022


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^key-[a-z2-7]{16}$")]
    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    user_id: str | None
    rights: list[Right]
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    keys: list[_Entry]


def parse_keys(data: bytes) -> tuple[ApiKey, ...]:
    """Read the content of a keys file.

    Raises:
        ValueError: The content is no keys file; the message names the place.
    """
    try:
        document = _Document.model_validate(decode(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{place}: {first['msg']}") from error
    if len(document.keys) > KEYS_MAX:
        raise ValueError(f"it has {len(document.keys)} keys, and may have {KEYS_MAX}")
    keys = tuple(_key_of(entry) for entry in document.keys)
    if len({key.id for key in keys}) < len(keys):
        raise ValueError("two keys have one id")
    return keys


def check_owner(path: Path) -> None:
    """Refuse a file that other users of the machine can write.

    Raises:
        CredentialsUnusable: They can write it.
    """
    if path.stat().st_mode & _OTHERS_MAY_WRITE:
        raise CredentialsUnusable(f"{path} can be written by others; `chmod 600` it")


class KeyFile:
    """The keys file, for commands that change it. All methods block.

    Attributes:
        path: The path of the file.
        place: The same, for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)

    def read(self) -> tuple[ApiKey, ...]:
        """Return all keys; none if the file does not exist.

        Raises:
            CredentialsUnusable: The file cannot be read or is no keys file.
        """
        try:
            return parse_keys(self.path.read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise CredentialsUnusable(f"{self.path} is not usable: {_reason(error)}") from error

    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace the keys by the result of `change`, durably.

        Raises:
            CredentialsUnusable: The file cannot be read or written; it is unchanged.
        """
        try:
            with self._locked():
                self._write(change(self.read()))
        except OSError as error:
            raise CredentialsUnusable(f"{self.path} cannot be written: {_reason(error)}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        directory = self.path.parent
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write(self, keys: Sequence[ApiKey]) -> None:
        document = _Document(keys=[_entry_of(key) for key in keys])
        fd, name = mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)  # mode 0600
        aside = Path(name)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(encode_pretty(document.model_dump(mode="json")))
                file.flush()
                os.fsync(file.fileno())
            aside.chmod(_MODE)
            aside.replace(self.path)
        finally:
            aside.unlink(missing_ok=True)


def with_room(keys: Sequence[ApiKey]) -> Sequence[ApiKey]:
    """Return the keys with room for one more: if there are too many, the first revoked one goes.

    Raises:
        CredentialsUnusable: There are `KEYS_MAX` keys, and none is revoked.
    """
    if len(keys) < KEYS_MAX:
        return keys
    revoked = [(key.revoked_at, key.id) for key in keys if key.revoked_at is not None]
    if not revoked:
        raise CredentialsUnusable(f"there are {KEYS_MAX} keys already; revoke some")
    _, oldest = min(revoked)
    return [key for key in keys if key.id != oldest]


def _key_of(entry: _Entry) -> ApiKey:
    if entry.user_id is not None:
        try:
            check_user_id(entry.user_id)
        except InvalidId as error:
            raise ValueError(f"{entry.id}: {error.detail}") from error
    return ApiKey(
        id=entry.id,
        digest=bytes.fromhex(entry.sha256),
        user_id=entry.user_id,
        rights=frozenset(entry.rights),
        name=entry.name,
        created_at=parse_ms(entry.created_at),
        expires_at=_ms(entry.expires_at),
        revoked_at=_ms(entry.revoked_at),
    )


def _entry_of(key: ApiKey) -> _Entry:
    return _Entry(
        id=key.id,
        name=key.name,
        sha256=key.digest.hex(),
        user_id=key.user_id,
        rights=sorted(key.rights),
        created_at=format_ms(key.created_at),
        expires_at=None if key.expires_at is None else format_ms(key.expires_at),
        revoked_at=None if key.revoked_at is None else format_ms(key.revoked_at),
    )


def _ms(text: str | None) -> int | None:
    return None if text is None else parse_ms(text)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)

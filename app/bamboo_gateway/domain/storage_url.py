"""StorageUrl: where sessions are kept, as `storage_url` and `bamboo migrate data` name it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from typing_extensions import override

StorageScheme = Literal["jsonl", "sqlite", "postgresql", "memory"]

_FORMS: Final = (
    "`jsonl:`, `jsonl:/directory`, `sqlite:`, `sqlite:///file`, `postgresql://user@host/database` "
    "or `memory:`"
)


@dataclass(frozen=True, slots=True, repr=False)
class StorageUrl:
    """A parsed storage URL. Its text as `str` and `repr` never shows a password.

    Attributes:
        scheme: The kind of store.
        path: The directory (`jsonl:/directory`) or file (`sqlite:///file`) that the URL names; None
            when the store lies in `data_dir`, or is neither.
        secret: The whole URL as it was given, with the password.
    """

    scheme: StorageScheme
    path: Path | None
    secret: str

    @staticmethod
    def parse(text: str) -> "StorageUrl":
        """Parse a storage URL.

        A path is absolute or begins with `~`. It is taken as written: `%`, `?` and `#` are
        characters like others.

        Raises:
            ValueError: The text is no storage URL; the message repeats no part of it that could be
                a password.
        """
        scheme, colon, rest = text.partition(":")
        scheme = scheme.lower()
        if any(ord(char) < 32 for char in text):
            raise ValueError("it has a control character")
        if colon:
            match scheme:
                case "memory":
                    if rest:
                        raise ValueError("`memory:` takes nothing behind the colon")
                    return StorageUrl(scheme, None, text)
                case "jsonl" | "sqlite":
                    return StorageUrl(scheme, _path_of(scheme, rest) if rest else None, text)
                case "postgresql" | "postgres":
                    _check_database(text)
                    return StorageUrl("postgresql", None, text)
                case _:
                    pass
        if colon and scheme.replace("+", "").replace("-", "").isalnum():
            raise ValueError(f"`{scheme}:` is not supported: use {_FORMS}")
        raise ValueError(f"not a storage URL: use {_FORMS}")

    @override
    def __str__(self) -> str:
        """Return the URL without its password and its options, which may have one."""
        if self.scheme != "postgresql":
            return self.secret
        parts = urlsplit(self.secret)
        user, at, host = parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        options = "?…" if parts.query or parts.fragment else ""
        return f"postgresql://{name}{':***' if colon else ''}{at}{host}{parts.path}{options}"

    __repr__ = __str__


def _path_of(scheme: str, rest: str) -> Path:
    # `sqlite:///file`, `sqlite:/file` and SQLAlchemy's `sqlite:////file` are the same.
    path = "/" + rest.lstrip("/") if rest.startswith("/") else rest
    if not path.startswith(("/", "~")) or (rest.startswith("//") and not rest.startswith("///")):
        form = "jsonl:/directory" if scheme == "jsonl" else "sqlite:///file"
        raise ValueError(f"write an absolute path: `{form}`")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # `~name`, and there is no such user
        raise ValueError("there is no home directory for that `~`") from error


def _check_database(text: str) -> None:
    try:
        # Of several servers each may have a port of its own.
        for host in urlsplit(text).netloc.rpartition("@")[2].split(","):
            _ = urlsplit(f"//{host}").port
        if text.lower().startswith("postgresql://"):
            return
    except ValueError:
        pass  # its text may repeat a part of the password
    raise ValueError("write `postgresql://user@host/database`")

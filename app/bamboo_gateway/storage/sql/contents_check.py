"""`bamboo doctor` on contents that are rows of a database: each has to be what its name says.

The counterpart of `storage.files.examination`. A transaction reads one piece, so that a content of
any size is checked in little memory, and no large table is held back.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path

from bamboo_gateway.storage.files.base import ContentName
from bamboo_gateway.storage.files.disk import set_aside_as
from bamboo_gateway.storage.reports import Finding
from bamboo_gateway.storage.sql.contents import (
    find_content,
    list_page,
    piece_of,
    remove_content,
)
from bamboo_gateway.storage.sql.database import Connection

Transaction = Callable[[], AbstractContextManager[Connection]]

_PAGE = 500


def check_contents(begin: Transaction, quarantine: Path, *, repair: bool) -> Iterator[Finding]:
    """Read every content, and yield what is wrong; with `repair` move it into the quarantine.

    Args:
        begin: Begins a transaction.
        quarantine: The directory for damaged contents; it is made when there is one.
        repair: Move what is damaged.

    Raises:
        OSError: The quarantine cannot be written.
    """
    after: ContentName | None = None
    while True:
        with begin() as connection:
            page = list_page(connection, after, _PAGE)
        if not page:
            return
        for content in page:
            after = content.name
            if _is_whole(begin, content.name):
                continue
            if repair:
                quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
                _set_aside(begin, content.name, set_aside_as(quarantine, content.name))
            yield Finding(
                "fail",
                f"files/{after.owner}/{after.digest}",
                "the content is not what was uploaded",
                "moved into quarantine/; uploading the same content again makes the file whole",
                repair,
            )


def _is_whole(begin: Transaction, name: ContentName) -> bool:
    digest, size = sha256(), 0
    with begin() as connection:
        found = find_content(connection, name)
    if found is None:
        return True
    for piece in _pieces(begin, found[0]):
        digest.update(piece)
        size += len(piece)
    return digest.hexdigest() == name.digest and size == found[1]


def _set_aside(begin: Transaction, name: ContentName, path: Path) -> None:
    with begin() as connection:
        found = find_content(connection, name)
    if found is None:
        return
    with path.open("wb") as copy:
        path.chmod(0o600)
        for piece in _pieces(begin, found[0]):
            copy.write(piece)
    with begin() as connection:
        remove_content(connection, name)


def _pieces(begin: Transaction, upload: str) -> Iterator[bytes]:
    number = 0
    while True:
        with begin() as connection:
            piece = piece_of(connection, upload, number)
        if piece is None:
            return
        yield piece
        number += 1

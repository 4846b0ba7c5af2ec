"""`bamboo doctor` on the contents of files: each has to be what its name says.

A damaged content is set aside, and its file is then answered as damaged. Uploading the same content
again makes it whole.
"""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from bamboo_gateway.storage.files.base import PIECE_BYTES
from bamboo_gateway.storage.files.disk import list_contents, set_aside_as
from bamboo_gateway.storage.reports import Finding


def check_contents(directory: Path, quarantine: Path, *, repair: bool) -> Iterator[Finding]:
    """Read every content, and yield what is wrong; with `repair` move it into the quarantine.

    Raises:
        OSError: A content cannot be read or moved.
    """
    for content in list_contents(directory):
        owner, digest = content.name
        path = directory / owner / digest
        if _digest_of(path) == digest:
            continue
        if repair:
            quarantine.mkdir(mode=0o700, exist_ok=True)
            path.rename(set_aside_as(quarantine, content.name))
        yield Finding(
            "fail",
            f"files/{owner}/{digest}",
            "the content is not what was uploaded",
            "moved into quarantine/; uploading the same content again makes the file whole",
            repair,
        )


def _digest_of(path: Path) -> str:
    digest = sha256()
    with path.open("rb", buffering=0) as opened:
        while piece := opened.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()

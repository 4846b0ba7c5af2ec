"""Copies the contents of files into a backup, and out of it.

They are copied after the sessions: a content that a session of the backup names was there before,
and stays for `file_retention_seconds` after the last session that names it.
"""

from pathlib import Path
from typing import Final

from bamboo_gateway.storage.backup.manifest import BackupFile
from bamboo_gateway.storage.backup.target import BackupTarget
from bamboo_gateway.storage.base import StoreUnusable
from bamboo_gateway.storage.files.base import ContentName
from bamboo_gateway.storage.files.disk import is_name, list_contents

_FOLDER: Final = "files"


def copy_contents(directory: Path, target: BackupTarget) -> None:
    """Copy all contents, and check that each is what its name says.

    Raises:
        StoreUnusable: A content is damaged: a backup with it would look whole.
        OSError: A file cannot be read or written.
    """
    for content in list_contents(directory):
        owner, digest = content.name
        # Deleted since, perhaps.
        if not target.copy(directory / owner / digest, f"{_FOLDER}/{owner}-{digest}"):
            continue
        if target.last_file.sha256 != digest:
            raise StoreUnusable(
                f"The content {digest[:16]}… of a file is damaged, so there is no backup. Stop the "
                "gateway and run `bamboo doctor --repair`."
            )


def content_of(file: BackupFile) -> ContentName | None:
    """Return the content that a file of a backup has; None for other files."""
    folder, _, name = file.path.partition("/")
    owner, _, digest = name.partition("-")
    content = ContentName(owner, digest)
    is_content = folder == _FOLDER and is_name(content) and file.sha256 == digest
    return content if is_content else None

# Made from _async/files.py by tools/sync_from_async.py. Do not edit: `make clients`.
"""Files, which messages name."""

from __future__ import annotations

import mimetypes
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bamboo_gateway_client._sync.pause import read
from bamboo_gateway_client.addresses import segment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bamboo_gateway_client._sync.transport import Transport
    from bamboo_gateway_client.types import File, FileList


class Files:
    """The files of the caller."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        content: bytes | Path,
        *,
        name: str | None = None,
        media_type: str | None = None,
        user_id: str | None = None,
    ) -> File:
        """Upload a file; a chat takes what this returns in `files`.

        Args:
            content: Its bytes, or where they are.
            name: Its name; default: the path's.
            media_type: Its type; default: what the name says.
            user_id: Whose file it is, for keys that act for users.
        """
        if isinstance(content, Path):
            name = name or content.name
            content = read(content)
        if media_type is None:
            media_type = mimetypes.guess_type(name or "")[0] or "application/octet-stream"
        answer: File = self._transport.call(
            "POST",
            "/files",
            params={"name": name, "user_id": user_id},
            headers={"Content-Type": media_type},
            content=content,
        )
        return answer

    def list(self) -> Iterator[File]:
        """Iterate over the files, page by page."""
        cursor: str | None = None
        while True:
            page: FileList = self._transport.call("GET", "/files", params={"cursor": cursor})
            for file in page["files"]:
                yield file
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def read(self, file_id: str) -> bytes:
        """Return the content of a file."""
        response = self._transport.send("GET", f"/files/{segment(file_id)}")
        return response.content

    @contextmanager
    def open(self, file_id: str) -> Iterator[Iterator[bytes]]:
        """Open a file, and yield an iterator over its content in pieces."""
        with self._transport.open("GET", f"/files/{segment(file_id)}") as response:
            yield response.iter_bytes()

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._transport.call("DELETE", f"/files/{segment(file_id)}")

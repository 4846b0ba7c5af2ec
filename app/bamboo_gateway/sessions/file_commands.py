"""The part of `SessionManager` for files."""

from collections.abc import AsyncIterator
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.commands import Outcome
from bamboo_gateway.sessions.files import downloads, uploads
from bamboo_gateway.sessions.files.downloads import OpenFile
from bamboo_gateway.sessions.files.uploads import NewFile, Received
from bamboo_gateway.sessions.manager_parts import ManagerParts


class FileCommands(ManagerParts):
    """Commands about files that messages name."""

    async def upload_file(
        self, caller: Caller, new: NewFile, body: AsyncIterator[Received]
    ) -> Outcome[dict[str, Any]]:
        """Store a file that arrives in pieces, whole or not at all (`uploads.upload`)."""
        return await uploads.upload(self._context, caller, new, body)

    async def open_file(self, caller: Caller, file_id: str) -> OpenFile:
        """Return a file for its owner, and for readers of a session that names it.

        Raises:
            NotFound: There is no such file for this caller.
            Gone: Its content is damaged or lost.
        """
        return await downloads.open_file(self._context, self._registry, caller, file_id)

    async def list_files(
        self, caller: Caller, after: str = "", limit: int = 100
    ) -> tuple[list[dict[str, Any]], bool]:
        """Return the caller's files behind the file `after`, and whether more follow."""
        return await downloads.list_files(self._context, caller, after, limit)

    async def delete_file(self, caller: Caller, file_id: str) -> None:
        """Delete a file that no session names.

        Raises:
            NotFound: There is no such file, or it belongs to another user.
            Refused: A session names it.
        """
        await downloads.delete_file(self._context, caller, file_id)

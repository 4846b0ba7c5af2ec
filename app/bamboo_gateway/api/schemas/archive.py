"""The archive: archived sessions, and what bulk calls answer."""

from bamboo_gateway.api.schemas.fields import Described
from bamboo_gateway.api.schemas.sessions import Session


class ArchivedSession(Described):
    """An archived session, and its bytes on the disk: compressed, and before."""

    session: Session
    archived_at: str
    bytes: int
    original_bytes: int


class ArchivePage(Described):
    """A page of archived sessions."""

    archives: list[ArchivedSession]
    next_cursor: str | None
    has_more: bool
    total: int = 0
    offset: int = 0


class Done(Described):
    """One session that a bulk call has handled."""

    session_id: str
    bytes: int


class NotDone(Described):
    """One session that a bulk call could not handle, and why."""

    session_id: str
    code: str
    detail: str


class BulkArchived(Described):
    """What archiving many sessions has done."""

    archived: list[Done]
    failed: list[NotDone]


class BulkRestored(Described):
    """What restoring many sessions has done."""

    restored: list[Done]
    failed: list[NotDone]

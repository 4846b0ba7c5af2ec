"""The part of `SessionManager` for the rest of a session's lifecycle.

Archive, export and import, sharing, fork and merge, summaries, statistics, retention, extension
data, diagnostics.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import BinaryIO

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Conflict, InvalidId
from bamboo_gateway.domain.ids import check_id, derived_session_id
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.exporters.base import Export
from bamboo_gateway.sessions import diagnostics, erasure, sharing, statistics
from bamboo_gateway.sessions.answers import (
    ArchivedSession,
    BulkArchived,
    BulkRestored,
    CleanupStats,
    Diagnostics,
    Done,
    Exported,
    ExtensionData,
    ExtensionState,
    Forked,
    Imported,
    ImportedConversation,
    Merged,
    Overview,
    Report,
    ShareMade,
    ShareView,
    Statistics,
    Summary,
    Tree,
    UserErasure,
)
from bamboo_gateway.sessions.commands import Idempotency, Outcome, SessionList
from bamboo_gateway.sessions.extensions import (
    Change,
    change_extensions,
    extension_view,
    named_extension,
)
from bamboo_gateway.sessions.lifecycle import archive, export, imports, retention, summaries
from bamboo_gateway.sessions.lifecycle.branch_tree import branch_tree
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork, fork
from bamboo_gateway.sessions.lifecycle.merge import merge
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from bamboo_gateway.sessions.manager_parts import ManagerParts
from bamboo_gateway.sessions.runs import conversation
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.sessions.webhooks.reports import check_webhooks
from bamboo_gateway.storage.reports import SessionQuery


class LifecycleCommands(ManagerParts):
    """Commands that clients use less often."""

    # -- archive ----------------------------------------------------------------------------

    async def archive(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome[ArchivedSession]:
        """Archive a session (`lifecycle.archive.archive`)."""
        return await archive.archive(self._context, self._transactions, caller, session_id, idem)

    async def restore(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome[SessionView]:
        """Restore an archived session (`lifecycle.archive.restore`)."""
        return await archive.restore(self._context, self._transactions, caller, session_id, idem)

    async def archive_each(
        self, caller: Caller, session_ids: list[str], idem: Idempotency | None = None
    ) -> Outcome[BulkArchived]:
        """Archive many, each by itself and once for a key. Answer what was done and what failed."""
        replays: list[bool] = []

        async def one(session_id: str) -> Done:
            outcome = await self.archive(caller, session_id, idem)
            replays.append(outcome.replayed)
            return {"session_id": session_id, "bytes": outcome.answer["bytes"]}

        done, failed = await archive.each(session_ids, one)
        return Outcome({"archived": done, "failed": failed}, _is_replay(replays))

    async def restore_each(
        self, caller: Caller, session_ids: list[str], idem: Idempotency | None = None
    ) -> Outcome[BulkRestored]:
        """Restore many, each by itself and once for a key. Answer what was done and what failed."""
        replays: list[bool] = []

        async def one(session_id: str) -> Done:
            replays.append((await self.restore(caller, session_id, idem)).replayed)
            return {
                "session_id": session_id,
                "bytes": (await self._context.store.size(session_id)).stored_bytes,
            }

        done, failed = await archive.each(session_ids, one)
        return Outcome({"restored": done, "failed": failed}, _is_replay(replays))

    async def archived(self, caller: Caller, session_id: str) -> ArchivedSession:
        """Return one ArchivedSession."""
        return await archive.archived(self._context, self._registry, caller, session_id)

    async def list_archived(
        self, caller: Caller, query: SessionQuery
    ) -> SessionList[ArchivedSession]:
        """Return a page of archived sessions, with the filters of sessions."""
        page = await self._registry.query(caller, replace(query, archived="only"))
        sizes = await self._context.store.sizes([head.id for head in page.heads])
        views = [
            archive.archived_view(self._context, head, sizes[head.id])
            for head in page.heads
            if head.id in sizes  # else it was deleted since
        ]
        return SessionList(views, page.next_cursor, page.has_more, page.total)

    async def delete_archived(self, caller: Caller, session_id: str) -> None:
        """Delete an archived session.

        Raises:
            NotFound: There is no archived session of that id.
        """

        def is_archived(head: SessionHead) -> bool:
            archive.check_archived(head)
            return True

        await self._transactions.delete(caller, session_id, is_archived)

    # -- export and import ------------------------------------------------------------------

    async def export(self, caller: Caller, session_id: str, options: ExportOptions) -> Export:
        """Begin to write a session as a document."""
        return await export.export(self._context, self._registry, caller, session_id, options)

    async def export_to_file(
        self,
        caller: Caller,
        session_id: str,
        options: ExportOptions,
        path: str,
        idem: Idempotency | None = None,
    ) -> Outcome[Exported]:
        """Write a session to a file under `export_dir` (`lifecycle.export.export_to_file`)."""

        async def write() -> Exported:
            return await export.export_to_file(
                self._context, self._registry, caller, session_id, options, path
            )

        return await self._transactions.once(caller, session_id, idem, write)

    def export_zip(
        self, caller: Caller, session_ids: list[str], options: ExportOptions
    ) -> AsyncGenerator[bytes]:
        """Yield many sessions as a zip, in pieces."""
        return export.export_zip(self._context, self._registry, caller, session_ids, options)

    async def import_document(
        self,
        caller: Caller,
        data: bytes,
        *,
        format_name: str | None = None,
        conversation: int | None = None,
        keep_id: bool = False,
        idem: Idempotency | None = None,
    ) -> Outcome[Imported]:
        """Make a session of a document (`lifecycle.imports.import_document`)."""
        return await imports.import_document(
            self._context,
            self._transactions,
            caller,
            data,
            format_name=format_name,
            conversation=conversation,
            keep_id=keep_id,
            maker=self._maker,
            idem=idem,
        )

    async def import_zip(
        self, caller: Caller, file: BinaryIO, *, keep_id: bool = False, idem: Idempotency | None
    ) -> Outcome[Imported]:
        """Make a session of an export with files (`lifecycle.imports.import_zip`)."""
        return await imports.import_zip(
            self._context,
            self._transactions,
            caller,
            file,
            keep_id=keep_id,
            maker=self._maker,
            idem=idem,
        )

    async def import_all(
        self,
        caller: Caller,
        data: bytes,
        *,
        format_name: str | None = None,
        keep_id: bool = False,
        idem: Idempotency | None = None,
    ) -> AsyncGenerator[ImportedConversation]:
        """Begin to make a session of each conversation (`lifecycle.imports.import_all`)."""
        return await imports.import_all(
            self._context,
            self._transactions,
            caller,
            data,
            format_name=format_name,
            keep_id=keep_id,
            maker=self._maker,
            idem=idem,
        )

    # -- sharing ----------------------------------------------------------------------------

    async def share(
        self, caller: Caller, session_id: str, wanted: NewShare, idem: Idempotency | None = None
    ) -> Outcome[ShareMade]:
        """Share a session, read-only (`sharing.share`)."""
        share_id = self._maker.share_id()
        return await sharing.share(
            self._context, self._transactions, caller, session_id, wanted, share_id, idem
        )

    async def shares(self, caller: Caller, session_id: str) -> list[ShareView]:
        """Return the shares of a session."""
        return await sharing.shares(self._context, self._registry, caller, session_id)

    async def revoke_share(self, caller: Caller, session_id: str, share_id: str) -> None:
        """End a share, and the streams that were opened with it."""
        await sharing.revoke(self._context, self._transactions, caller, session_id, share_id)

    async def link_caller(self, token: str) -> Caller | None:
        """Return the caller of a link's token; None when no valid share has this token."""
        return await sharing.link_caller(self._context, self._registry, token)

    # -- branches ---------------------------------------------------------------------------

    async def fork(
        self, caller: Caller, session_id: str, wanted: Fork, idem: Idempotency | None = None
    ) -> Outcome[Forked]:
        """Create a session with the beginning of another one (`lifecycle.fork.fork`)."""
        if wanted.new_id is not None:
            child_id = check_id(wanted.new_id)
        elif idem is not None:
            child_id = derived_session_id(caller.id, "fork", session_id, idem.key)
        else:
            child_id = self._maker.new_session_id()
        if child_id == session_id:
            raise InvalidId("A fork needs another id than its parent's.")
        return await fork(
            self._context, self._transactions, caller, session_id, child_id, wanted, idem
        )

    async def merge(
        self, caller: Caller, target_id: str, wanted: Merge, idem: Idempotency | None = None
    ) -> Outcome[Merged]:
        """Merge another session's messages into this one (`lifecycle.merge.merge`)."""
        return await merge(
            self._context, self._transactions, self._maker, caller, target_id, wanted, idem
        )

    async def tree(self, caller: Caller, session_id: str) -> Tree:
        """Return the whole branch tree that the session belongs to."""
        head = await self._registry.head(caller, session_id, "read")
        return await branch_tree(self._context, self._registry, caller, head)

    # -- summaries --------------------------------------------------------------------------

    async def summary(self, caller: Caller, session_id: str) -> Summary:
        """Return the present summary."""
        store = self._context.store
        return await self._registry.read(
            caller, session_id, lambda head: summaries.require_summary(store, head)
        )

    async def save_summary(
        self,
        caller: Caller,
        session_id: str,
        summary: str,
        turn_count: int | None = None,
        position: Position | None = None,
        idem: Idempotency | None = None,
    ) -> Outcome[Summary]:
        """Save a summary (`lifecycle.summaries.save_summary`)."""
        return await summaries.save_summary(
            self._context,
            self._transactions,
            caller,
            session_id,
            summary,
            turn_count,
            position,
            idem,
        )

    async def delete_summary(self, caller: Caller, session_id: str) -> None:
        """Delete the present summary."""
        await summaries.delete_summary(self._transactions, caller, session_id)

    async def list_summaries(self, caller: Caller, query: SessionQuery) -> SessionList[Summary]:
        """Return the summaries of the sessions that match.

        A page covers `query.limit` sessions; sessions without a summary make it shorter.
        """
        page = await self._registry.query(caller, replace(query, count=False, archived="include"))
        shown = []
        for head in page.heads:
            with suppress(Conflict):  # deleted since
                if summary := await conversation.load_summary(self._context.store, head):
                    shown.append(summary)
        return SessionList(shown, page.next_cursor, page.has_more, None)

    async def write_summary(
        self, caller: Caller, session_id: str, agent: str | None, idem: Idempotency | None = None
    ) -> Outcome[Summary]:
        """Let an agent write the summary (`lifecycle.summaries.ask_for_summary`), and save it."""
        if kept := await self._transactions.replay(caller, session_id, idem):
            return kept

        async def write(head: SessionHead) -> tuple[str, Position]:
            self._context.states.check_writable(head)
            await self._context.quotas.stored.check_bytes(head.user_id)
            return await summaries.ask_for_summary(
                self._context, self._agents, self._maker, head, agent
            ), head.position

        text, position = await self._registry.read(caller, session_id, write)
        return await self.save_summary(caller, session_id, text, position=position, idem=idem)

    async def resume(
        self, caller: Caller, session_id: str, *, interactive: bool = True
    ) -> AsyncGenerator[bytes]:
        """Return `{"message": …}`, encoded and in pieces (`runs.conversation.resume`)."""
        return await conversation.resume(
            self._context, self._registry, caller, session_id, interactive=interactive
        )

    # -- statistics -------------------------------------------------------------------------

    async def statistics(self, caller: Caller, session_id: str) -> Statistics:
        """Return one session's statistics."""
        head = await self._registry.head(caller, session_id, "read")
        return statistics.session_statistics(head)

    async def report(self, caller: Caller, session_id: str) -> Report:
        """Return one session's report for people."""
        head = await self._registry.head(caller, session_id)
        return statistics.session_report(self._context, head)

    async def overall_statistics(self, caller: Caller) -> Overview:
        """Add up all sessions of the caller."""
        return await statistics.overall_statistics(self._context, self._registry, caller)

    # -- retention --------------------------------------------------------------------------

    async def clean(
        self, caller: Caller, *, before_ms: int | None = None, dry_run: bool = False
    ) -> CleanupStats:
        """Delete sessions whose retention has passed, or all inactive since `before_ms`."""
        return await retention.clean(
            self._context, self._transactions, caller, before_ms=before_ms, dry_run=dry_run
        )

    async def erase_user(self, user_id: str, *, dry_run: bool = False) -> UserErasure:
        """Delete everything of one user (`erasure.erase`); for the operator alone."""
        return await erasure.erase(
            self._context,
            self._transactions,
            user_id,
            self._forget_keys,
            self._webhooks.forget_user,
            dry_run=dry_run,
        )

    # -- extension data ---------------------------------------------------------------------

    async def extensions(self, caller: Caller, session_id: str) -> ExtensionData:
        """Return the session's ExtensionData."""
        return extension_view(await self._registry.head(caller, session_id))

    async def extension(self, caller: Caller, session_id: str, name: str) -> ExtensionState:
        """Return one extension's state."""
        return named_extension(await self._registry.head(caller, session_id), name)

    async def change_extensions(
        self,
        caller: Caller,
        session_id: str,
        change: Change,
        idem: Idempotency | None = None,
    ) -> ExtensionData:
        """Apply one of the changes of `extensions`. Return the ExtensionData after it."""
        return await change_extensions(self._transactions, caller, session_id, change, idem)

    # -- diagnostics ------------------------------------------------------------------------

    async def diagnostics(self, caller: Caller) -> Diagnostics:
        """Check everything that the gateway depends on (`diagnostics.check_gateway`)."""
        del caller  # the checks are about the process, not about a session
        return await diagnostics.check_gateway(
            self._context,
            self._registry,
            self._hub.open,
            self._agents,
            check_webhooks(self._webhooks),
        )

    async def bug_report(self, caller: Caller, session_id: str) -> AsyncGenerator[bytes]:
        """Begin to write a bug report of a session, with secrets masked."""
        head = await self._registry.head(caller, session_id)
        return diagnostics.bug_report(self._context, head)


def _is_replay(each: list[bool]) -> bool:
    """Return whether an earlier request with the same key had done all of a bulk request."""
    return bool(each) and all(each)

"""SessionLife: the verbs of a session's whole life, beyond its main job.

Archive, export and import, sharing, fork, merge, tree, summaries, statistics, retention, extension
data. A part of the `SessionManager`, which owns what it works on.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Conflict, InvalidId
from bamboo_gateway.domain.ids import check_id, derived_session_id
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions import diagnostics, sharing, statistics
from bamboo_gateway.sessions.commands import Idempotency, Outcome, SessionList
from bamboo_gateway.sessions.extensions import (
    Change,
    change_extensions,
    extension_view,
    named_extension,
)
from bamboo_gateway.sessions.lifecycle import archive, export, imports, retention, summaries
from bamboo_gateway.sessions.lifecycle.branch_tree import branch_tree
from bamboo_gateway.sessions.lifecycle.export import Export, ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork, fork
from bamboo_gateway.sessions.lifecycle.merge import Merge, merge
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.sessions.runs import conversation
from bamboo_gateway.sessions.runs.factory import Agents, Maker
from bamboo_gateway.sessions.sharing import NewShare
from bamboo_gateway.storage.base import SessionQuery


class SessionLife:
    """See the module. Answers are in the contract's shapes."""

    def __init__(self, pool: SessionPool, agents: Agents, maker: Maker) -> None:
        self._pool = pool
        self._agents = agents
        self._maker = maker

    # -- archive ----------------------------------------------------------------------------

    async def archive(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome:
        """Archives a session; see `archive.archive`."""
        return await archive.archive(self._pool, caller, session_id, idem)

    async def restore(
        self, caller: Caller, session_id: str, idem: Idempotency | None = None
    ) -> Outcome:
        """Restores an archived session; see `archive.restore`."""
        return await archive.restore(self._pool, caller, session_id, idem)

    async def archive_each(
        self, caller: Caller, session_ids: list[str], idem: Idempotency | None = None
    ) -> Outcome:
        """Archives many, each by itself and once for a key; tells what was done, what failed."""
        replays: list[bool] = []

        async def one(session_id: str) -> dict[str, Any]:
            outcome = await self.archive(caller, session_id, idem)
            replays.append(outcome.replayed)
            return {"session_id": session_id, "bytes": outcome.answer["bytes"]}

        done, failed = await archive.each(session_ids, one)
        return Outcome({"archived": done, "failed": failed}, _is_replay(replays))

    async def restore_each(
        self, caller: Caller, session_ids: list[str], idem: Idempotency | None = None
    ) -> Outcome:
        """Restores many, each by itself and once for a key; tells what was done, what failed."""
        replays: list[bool] = []

        async def one(session_id: str) -> dict[str, Any]:
            replays.append((await self.restore(caller, session_id, idem)).replayed)
            return {
                "session_id": session_id,
                "bytes": self._pool.store.size(session_id).stored_bytes,
            }

        done, failed = await archive.each(session_ids, one)
        return Outcome({"restored": done, "failed": failed}, _is_replay(replays))

    async def archived(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives one ArchivedSession."""
        return await archive.archived(self._pool, caller, session_id)

    async def list_archived(self, caller: Caller, query: SessionQuery) -> SessionList:
        """Lists archived sessions, with the filters and paging of sessions."""
        page = await self._pool.query(caller, replace(query, archived="only"))
        views = []
        for head in page.heads:
            with suppress(Conflict):  # deleted since
                views.append(archive.archived_view(self._pool, head))
        return SessionList(views, page.next_cursor, page.has_more, page.total)

    async def delete_archived(self, caller: Caller, session_id: str) -> None:
        """Deletes an archived session.

        Raises:
            NotFound: It is not archived, or not there.
        """

        def is_archived(head: SessionHead) -> bool:
            archive.check_archived(head)
            return True

        await self._pool.delete(caller, session_id, is_archived)

    # -- export and import ------------------------------------------------------------------

    async def export(self, caller: Caller, session_id: str, options: ExportOptions) -> Export:
        """Begins to write a session as a document."""
        return await export.export(self._pool, caller, session_id, options)

    async def export_to_file(
        self,
        caller: Caller,
        session_id: str,
        options: ExportOptions,
        path: str,
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Writes a session to a file under `export_dir`; see `export.export_to_file`."""

        async def write() -> dict[str, Any]:
            return await export.export_to_file(self._pool, caller, session_id, options, path)

        return await self._pool.once(caller, session_id, idem, write)

    def export_zip(
        self, caller: Caller, session_ids: list[str], options: ExportOptions
    ) -> AsyncGenerator[bytes]:
        """Writes many sessions as a zip."""
        return export.export_zip(self._pool, caller, session_ids, options)

    async def import_document(
        self,
        caller: Caller,
        data: bytes,
        *,
        format_name: str | None = None,
        conversation: int | None = None,
        keep_id: bool = False,
        idem: Idempotency | None = None,
    ) -> Outcome:
        """Makes a session of a document; see `imports.import_document`."""
        return await imports.import_document(
            self._pool,
            caller,
            data,
            format_name=format_name,
            conversation=conversation,
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
    ) -> AsyncGenerator[dict[str, Any]]:
        """Begins to make a session of each conversation; see `imports.import_all`."""
        return await imports.import_all(
            self._pool,
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
    ) -> Outcome:
        """Shares a session, read-only; see `sharing.share`."""
        share_id = self._maker.share_id()
        return await sharing.share(self._pool, caller, session_id, wanted, share_id, idem)

    async def shares(self, caller: Caller, session_id: str) -> list[dict[str, Any]]:
        """Lists the shares of a session."""
        return await sharing.shares(self._pool, caller, session_id)

    async def revoke_share(self, caller: Caller, session_id: str, share_id: str) -> None:
        """Ends a share and the streams that stood on it."""
        await sharing.revoke(self._pool, caller, session_id, share_id)

    async def link_caller(self, token: str) -> Caller | None:
        """Gives who comes with a link's token, or None when it opens nothing."""
        return await sharing.link_caller(self._pool, token)

    # -- branches ---------------------------------------------------------------------------

    async def fork(
        self, caller: Caller, session_id: str, wanted: Fork, idem: Idempotency | None = None
    ) -> Outcome:
        """Makes a new session of a session's beginning; see `fork.fork`."""
        if wanted.new_id is not None:
            child_id = check_id(wanted.new_id)
        elif idem is not None:
            child_id = derived_session_id(caller.id, "fork", session_id, idem.key)
        else:
            child_id = self._maker.new_session_id()
        if child_id == session_id:
            raise InvalidId("A fork needs another id than its parent's.")
        return await fork(self._pool, caller, session_id, child_id, wanted, idem)

    async def merge(
        self, caller: Caller, target_id: str, wanted: Merge, idem: Idempotency | None = None
    ) -> Outcome:
        """Merges another session's messages into this one; see `merge.merge`."""
        return await merge(self._pool, caller, target_id, wanted, idem)

    async def tree(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives the whole branch tree that the session belongs to."""
        head = await self._pool.head(caller, session_id, "read")
        return await branch_tree(self._pool, caller, head)

    # -- summaries --------------------------------------------------------------------------

    async def summary(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives the present summary."""
        store = self._pool.store
        return await self._pool.read(
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
    ) -> Outcome:
        """Saves a summary; see `summaries.save_summary`."""
        return await summaries.save_summary(
            self._pool, caller, session_id, summary, turn_count, position, idem
        )

    async def delete_summary(self, caller: Caller, session_id: str) -> None:
        """Deletes the present summary."""
        await summaries.delete_summary(self._pool, caller, session_id)

    async def list_summaries(self, caller: Caller, query: SessionQuery) -> SessionList:
        """Lists the summaries of the sessions that `query` admits.

        A page looks at `query.limit` sessions; those without a summary leave it shorter.
        """
        page = await self._pool.query(caller, replace(query, count=False, archived="include"))
        shown = []
        for head in page.heads:
            with suppress(Conflict):  # deleted since
                if summary := await conversation.load_summary(self._pool.store, head):
                    shown.append(summary)
        return SessionList(shown, page.next_cursor, page.has_more, None)

    async def write_summary(
        self, caller: Caller, session_id: str, agent: str | None, idem: Idempotency | None = None
    ) -> Outcome:
        """Lets an agent write the summary of all so far; see `summaries.ask_for_summary`."""
        if kept := await self._pool.kept(caller, session_id, idem):
            return kept

        async def write(head: SessionHead) -> tuple[str, Position]:
            self._pool.check_writable(head)
            return await summaries.ask_for_summary(
                self._pool, self._agents, self._maker, head, agent
            ), head.position

        text, position = await self._pool.read(caller, session_id, write)
        return await self.save_summary(caller, session_id, text, position=position, idem=idem)

    async def resume(
        self, caller: Caller, session_id: str, *, interactive: bool = True
    ) -> AsyncGenerator[bytes]:
        """Gives `{"message": …}`, encoded and in pieces; see `conversation.resume`."""
        return await conversation.resume(self._pool, caller, session_id, interactive=interactive)

    # -- statistics -------------------------------------------------------------------------

    async def statistics(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives one session's statistics."""
        head = await self._pool.head(caller, session_id, "read")
        return statistics.session_statistics(head)

    async def report(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives one session's report for people."""
        head = await self._pool.head(caller, session_id)
        return statistics.session_report(self._pool, head)

    async def overall_statistics(self, caller: Caller) -> dict[str, Any]:
        """Adds up all sessions of the caller."""
        return await statistics.overall_statistics(self._pool, caller)

    # -- cleanup ----------------------------------------------------------------------------

    async def clean(
        self, caller: Caller, *, before_ms: int | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """Delete sessions whose retention has passed, or all inactive since `before_ms`."""
        return await retention.clean(self._pool, caller, before_ms=before_ms, dry_run=dry_run)

    # -- extension data ---------------------------------------------------------------------

    async def extensions(self, caller: Caller, session_id: str) -> dict[str, Any]:
        """Gives the session's ExtensionData."""
        return extension_view(await self._pool.head(caller, session_id))

    async def extension(self, caller: Caller, session_id: str, name: str) -> dict[str, Any]:
        """Gives one extension's state."""
        return named_extension(await self._pool.head(caller, session_id), name)

    async def change_extensions(
        self,
        caller: Caller,
        session_id: str,
        change: Change,
        idem: Idempotency | None = None,
    ) -> dict[str, Any]:
        """Applies one of the changes of `extensions`; answers the ExtensionData after it."""
        return await change_extensions(self._pool, caller, session_id, change, idem)

    # -- diagnostics ------------------------------------------------------------------------

    async def diagnostics(self, caller: Caller) -> dict[str, Any]:
        """Checks what the running gateway stands on; see `diagnostics.check_gateway`."""
        del caller  # of the process, and of no session
        return await diagnostics.check_gateway(self._pool, self._agents)

    async def bug_report(self, caller: Caller, session_id: str) -> AsyncGenerator[bytes]:
        """Begins to write a bug report of a session, with secrets masked."""
        return diagnostics.bug_report(self._pool, await self._pool.head(caller, session_id))


def _is_replay(each: list[bool]) -> bool:
    """Tells whether a bulk request did nothing that an earlier one with its key had not done."""
    return bool(each) and all(each)

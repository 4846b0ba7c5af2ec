"""Erasure: everything of one user goes, and a receipt says what went and what is left where.

A call first removes the user's keys and webhooks, then deletes the user's sessions, and then ends
the shares that others gave to the user, and removes the user's files, and those that the user has
exported. It deletes a bounded number of sessions; what is left goes with the next call, and so does
what failed. So a repeat continues, and after the last one changes nothing. Running agents are ended
by the deletion of their session.

At the end the store overwrites what its files keep longer (`SupportsErasure.vacuum`). A share is
an event of another user's log; the event with the user's name is taken out of that log, as
compaction takes deltas out.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Protocol, cast

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, Conflict, Gone, NotFound
from bamboo_gateway.domain.limits import BULK_PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions import sharing
from bamboo_gateway.sessions.answers import ErasedPart, FailedErasure, Remaining, UserErasure
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.records import content_of, owner_key
from bamboo_gateway.sessions.lifecycle import archive, export
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.storage.base import SessionStore, SupportsErasure
from bamboo_gateway.storage.reports import SessionQuery

SESSIONS_MAX: Final = 1000
"""The most sessions that one call deletes: some seconds, so that no proxy gives the call up."""

_PAGE_FILES: Final = 200

_TRIES: Final = 5
"""How often a share's event is looked for again when the log got other files meanwhile."""


class ForgetKeys(Protocol):
    """Removes the keys of a user (`credentials.gate.Gate.forget_keys_of`), or the webhooks."""

    async def __call__(self, user_id: str, *, dry_run: bool = False) -> int:
        """Return how many the user has; without `dry_run` they are gone."""


async def no_keys(user_id: str, *, dry_run: bool = False) -> int:  # noqa: ARG001 - a `ForgetKeys`
    """Remove nothing: this gateway keeps no keys."""
    return 0


@dataclass(slots=True)
class _Tally:
    sessions: int = 0
    archives: int = 0
    bytes_freed: int = 0
    shares: int = 0
    left: int = 0
    forks: int = 0
    expired_shares: int = 0
    failed: list[FailedErasure] = field(default_factory=list)

    def count(self, head: SessionHead, freed: int) -> None:
        is_archive = head.logged_state == "archived"
        self.archives += is_archive
        self.sessions += not is_archive
        self.bytes_freed += freed

    def fail(self, session_id: str, error: BambooError) -> None:
        self.failed.append({"session_id": session_id, "code": error.code})


async def erase(
    context: Context,
    transactions: Transactions,
    user_id: str,
    forget_keys: ForgetKeys,
    forget_webhooks: ForgetKeys,
    *,
    dry_run: bool = False,
) -> UserErasure:
    """Delete everything of one user, as far as one call can.

    Args:
        context: Has the store and the clock.
        transactions: Delete the sessions and change the shares.
        user_id: The user.
        forget_keys: Removes the user's keys.
        forget_webhooks: Removes the user's webhooks, and what others are told of the user.
        dry_run: Change nothing; answer what would go.

    Raises:
        Unavailable: The keys could not be removed; nothing was deleted yet.
        StorageFailed: Files of the user in `export_dir` could not be removed; the rest has gone.
    """
    # First: with a key the user could go on creating sessions.
    keys = await forget_keys(user_id, dry_run=dry_run)
    # Also first: nothing of the user is sent any more, but that the sessions are deleted.
    webhooks = await forget_webhooks(user_id, dry_run=dry_run)
    tally = _Tally()
    await _erase_sessions(context, transactions, user_id, tally, dry_run=dry_run)
    await _erase_shares(context, transactions, user_id, tally, dry_run=dry_run)
    if not dry_run:
        # What ended meanwhile; that the sessions are deleted is still told.
        await forget_webhooks(user_id)
    files = await _erase_files(context, user_id, tally, dry_run=dry_run)
    exports = await export.remove_exports(context, user_id, dry_run=dry_run)
    if not dry_run:
        await context.budget.forget(user_id)
    stores = [] if dry_run else await _vacuum(context)
    return {
        "user_id": user_id,
        "dry_run": dry_run,
        "complete": not dry_run and not tally.left and not tally.failed,
        "sessions": tally.sessions,
        "archives": tally.archives,
        "bytes_freed": tally.bytes_freed,
        "shares": tally.shares,
        "keys": keys,
        "webhooks": webhooks,
        "files": files,
        "exports": exports,
        "sessions_left": tally.left,
        "failed": tally.failed,
        "stores": stores,
        "remains": _remains(context, tally),
    }


async def _vacuum(context: Context) -> list[ErasedPart]:
    store = context.store
    if isinstance(store, SupportsErasure):
        parts = [part._asdict() for part in await store.vacuum()]
    else:
        until = "when the database uses their space again"
        parts = [{"store": context.settings.storage.scheme, "what": "sessions", "gone": until}]
    keys = {"store": "keys", "what": "the user's keys", "gone": "now"}
    what = "the user's webhooks, and what others were told of the user's sessions"
    webhooks = {"store": "webhooks", "what": what, "gone": "now"}
    return [cast("ErasedPart", part) for part in (keys, webhooks, *parts)]


async def _erase_sessions(
    context: Context,
    transactions: Transactions,
    user_id: str,
    tally: _Tally,
    *,
    dry_run: bool,
) -> None:
    registry = transactions.registry
    mine = SessionQuery(
        user_id=user_id, archived="include", sort_by="created_at", descending=False, count=False
    )
    due: list[SessionHead] = []
    async for head in registry.each(GATEWAY, mine):
        if dry_run:
            tally.forks += await _forks_of_others(transactions, head)
            tally.count(head, await _size(context, head))
        elif len(due) < SESSIONS_MAX:
            due.append(head)
        else:
            break
    for head in due:
        # Before: the list of forks asks for the parent's id.
        forks = await _forks_of_others(transactions, head)
        try:
            freed = await transactions.delete(GATEWAY, head.id, lambda now: now.user_id == user_id)
        except NotFound:
            continue
        except BambooError as error:
            tally.fail(head.id, error)
            continue
        if freed is not None:
            tally.forks += forks
            tally.count(head, freed)
    if not dry_run:
        tally.left = (await context.store.usage(user_id)).sessions


async def _size(context: Context, head: SessionHead) -> int:
    try:
        return (await context.store.size(head.id)).stored_bytes
    except Conflict:
        return 0  # deleted since


async def _erase_files(context: Context, user_id: str, tally: _Tally, *, dry_run: bool) -> int:
    """Remove the user's files, also those that other users' forks name; return their number."""
    shelf, after, count = context.files, "", 0
    while page := await shelf.records.page(user_id, after, _PAGE_FILES, all_users=False):
        for record in page:
            count += 1
            if dry_run:
                continue
            async with shelf.locks.hold([content_of(record)]):
                tally.bytes_freed += await shelf.remove(record)
        after = page[-1].id
    owner = owner_key(user_id)
    if dry_run:
        tally.bytes_freed += await shelf.usage.bytes_of(owner)
        return count
    # What uploads that failed have left, and the answers to keys, which have names of files.
    tally.bytes_freed += sum(await shelf.delete_strays(owner))
    await shelf.records.forget_keys(lambda kept: kept.get("owner") == owner)
    return count


async def _forks_of_others(transactions: Transactions, head: SessionHead) -> int:
    forks = SessionQuery(parent_id=head.id, archived="include", count=False)
    found = 0
    async for fork in transactions.registry.each(GATEWAY, forks):
        found += fork.user_id != head.user_id
    return found


async def _erase_shares(
    context: Context,
    transactions: Transactions,
    user_id: str,
    tally: _Tally,
    *,
    dry_run: bool,
) -> None:
    """End the shares that others gave to the user, and take them out of the others' logs.

    Those that have ended are taken out too.
    """
    # At the time 0 no share has ended yet, so the list has all.
    shared = SessionQuery(shared_with=user_id, shared_at=0, archived="include", count=False)
    heads = [head async for head in transactions.registry.each(GATEWAY, shared)]
    for head in heads:
        shares = [share for share in head.shares if share.user_id == user_id]
        if context.states.state_of(head) == "expired":
            # It takes no event any more; the cleanup deletes it with everything.
            tally.expired_shares += len(shares)
            continue
        if dry_run:
            tally.shares += len(shares)
            continue
        try:
            for share in shares:
                await sharing.forget(context, transactions, head.id, share)
            await _take_out(context, transactions, head, user_id)
        except (NotFound, Gone):
            continue  # deleted or revoked since
        except BambooError as error:
            tally.fail(head.id, error)
            continue
        tally.shares += len(shares)


async def _take_out(
    context: Context, transactions: Transactions, head: SessionHead, user_id: str
) -> None:
    """Take the events that name the user as the holder of a share out of a log."""
    store = context.store
    if not isinstance(store, SupportsErasure):
        return
    for _ in range(_TRIES):
        try:
            await store.unpack(head.id, head.epoch)
            seqs = [seq async for seq in _shares_in(store, head, user_id)]
            if seqs:
                await store.remove_events(head.id, head.epoch, seqs)
            break
        except Conflict:
            present = await store.load(head.id)
            if present is None or present.epoch != head.epoch:
                return  # deleted since
    if head.logged_state == "archived":
        await archive.pack_again(context, transactions.registry, head.id)


async def _shares_in(store: SessionStore, head: SessionHead, user_id: str) -> AsyncIterator[int]:
    after = 0
    while page := await store.read(
        head.id, head.epoch, after, limit=1000, max_bytes=BULK_PAGE_BYTES_MAX
    ):
        for record in page:
            if record.type == "session_shared" and _holder_of(record.body) == user_id:
                yield record.seq
        after = page[-1].seq


def _holder_of(body: bytes) -> str | None:
    holder: str | None = decode(body)["share"]["user_id"]
    return holder


def _remains(context: Context, tally: _Tally) -> list[Remaining]:
    """Return what an erasure cannot reach."""
    remains: list[Remaining] = [
        {
            "where": "backups",
            "what": "everything of the user that was there when they were made",
            "until": "you delete the backups made before; erase the user again after a restore",
        },
        {
            "where": "audit log",
            "what": "the ids of the user and of the user's sessions, and no content",
            "until": "you rotate it: it is the proof of who did what, also of this erasure",
        },
        {
            "where": "logs of the gateway",
            "what": "ids, and no content",
            "until": "you delete them",
        },
        {
            "where": "receivers of webhooks",
            "what": "the ids that they were told; they are told that the sessions are deleted",
            "until": "their owners delete them",
        },
        {
            "where": "tokens of the identity provider",
            "what": "the right to call as this user",
            "until": "they expire; the gateway does not keep them",
        },
    ]
    if context.settings.export_dir is not None:
        what = "files that the operator exported of the user's sessions"
        remains.append({"where": "export_dir", "what": what, "until": "you delete them"})
    if tally.forks:
        what = f"{tally.forks} forks of the user's sessions, with the messages up to the fork"
        remains.append(
            {"where": "other users' sessions", "what": what, "until": "their owners delete them"}
        )
    if tally.expired_shares:
        days = context.settings.cleanup_period_days
        what = f"{tally.expired_shares} shares with the user, in sessions that have expired"
        until = f"the cleanup deletes them, {days} days after they expired"
        remains.append({"where": "other users' sessions", "what": what, "until": until})
    return remains

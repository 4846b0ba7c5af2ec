"""Uploads: a body that arrives in pieces becomes a file, whole or not at all.

Its pieces go to the store as they come. When the client breaks off, nothing of it is kept. The
content is durable before its record is; a crash in between leaves a content that no file has, which
the sweep deletes.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import canonical, decode, encode
from bamboo_gateway.domain.errors import (
    Forbidden,
    IdempotencyKeyReused,
    InvalidInput,
    LimitReached,
    TooLarge,
)
from bamboo_gateway.domain.files import (
    DEFAULT_TYPE,
    SNIFF_BYTES,
    FileRecord,
    checked_media_type,
    safe_name,
    stored_type,
)
from bamboo_gateway.domain.limits import IDEMPOTENCY_RETENTION_MS
from bamboo_gateway.sessions.access import owner_of_copy
from bamboo_gateway.sessions.commands import Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.records import KEPT, added, content_of, owner_key
from bamboo_gateway.storage.files.base import PIECE_BYTES, ContentWriter
from bamboo_gateway.storage.reports import ValueChange


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to upload.

    Attributes:
        name: What the client calls it; made safe here.
        media_type: What the client says that it is.
        user_id: The user that it belongs to; only an operator may name another one.
        key: The idempotency key of the request.
    """

    name: str | None = None
    media_type: str | None = None
    user_id: str | None = None
    key: str | None = None


@dataclass(slots=True)
class _Received:
    """The file of a body: known only once its first bytes are there."""

    new: NewFile
    beginning: bytes = b""


Received = NewFile | bytes
"""What a body yields: for a multipart body first what the part says of the file, then its bytes."""


async def upload(
    context: Context, caller: Caller, new: NewFile, body: AsyncIterator[Received]
) -> Outcome[dict[str, Any]]:
    """Store a file.

    Args:
        context: Has the store, the clock and the limits.
        caller: Who uploads it.
        new: What the request says of it; what the body says counts more.
        body: Its bytes as they arrive.

    Raises:
        Forbidden: The caller's credential is for one session, or it names another user.
        InvalidInput: The media type has no valid form, or the content is not the picture it names.
        TooLarge: It is larger than `max_file_bytes`.
        LimitReached: The user's or the gateway's storage quota is used up.
        IdempotencyKeyReused: The key was used for another file.
        StorageFull, StorageFailed, Unavailable: Nothing of it is stored.
    """
    if caller.session_id is not None:
        raise Forbidden("Your credential is for one session; it cannot upload files.")
    if caller.user_id is not None and new.user_id not in {None, caller.user_id}:
        raise Forbidden("This belongs to another user; your credential is for your own sessions.")
    user_id = owner_of_copy(caller, new.user_id)
    async with AsyncExitStack() as stack:
        if new.key is not None:
            # Repeats wait: of requests at the same time with one key, one stores the file.
            lock = _key_name(caller, new.key)
            await stack.enter_async_context(context.files.locks.hold([lock]))
        if new.key is None or await _kept(context, _key_name(caller, new.key)[1]) is None:
            # A repeat stores nothing: it is answered also when its first has used up the quota.
            await context.quotas.stored.check_bytes(user_id)
        async with context.store.contents.writer() as writer:
            received = await _receive(context, writer, new, body)
            declared = checked_media_type(received.new.media_type)
            media_type = stored_type(declared, received.beginning)
            name = received.new.name
            record = _record(context, writer, await writer.finish(), user_id, name, media_type)
            key = None if new.key is None else _Key(caller, new.key, record)
            if key is not None and (kept := await _kept(context, key.name)) is not None:
                return Outcome(key.answer_of(kept), replayed=True)
            await _store(context, writer, record, key)
    return Outcome(record.view())


async def store_content(
    context: Context,
    writer: ContentWriter,
    user_id: str | None,
    name: str | None,
    media_type: str,
    beginning: bytes,
) -> FileRecord:
    """Store a content that was written and finished as a new file of a user.

    What says that it is a picture and is none becomes a plain file.

    Raises:
        LimitReached, StorageFull, StorageFailed, Unavailable: Nothing of it is stored.
    """
    try:
        media_type = stored_type(media_type, beginning)
    except InvalidInput:
        media_type = DEFAULT_TYPE
    record = _record(context, writer, await writer.finish(), user_id, name, media_type)
    await _store(context, writer, record, None)
    return record


def _record(
    context: Context,
    writer: ContentWriter,
    digest: str,
    user_id: str | None,
    name: str | None,
    media_type: str,
) -> FileRecord:
    now_ms = context.clock.now_ms()
    return FileRecord(
        id=context.ids.make("file_", now_ms),
        user_id=user_id,
        name=safe_name(name, media_type),
        media_type=media_type,
        size=writer.size,
        sha256=digest,
        created_at=now_ms,
        unnamed_since=now_ms,
    )


async def _receive(
    context: Context, writer: ContentWriter, new: NewFile, body: AsyncIterator[Received]
) -> _Received:
    size_max = context.settings.max_file_bytes
    received = _Received(new)
    waiting: list[bytes] = []
    waiting_bytes = size = 0
    async for item in body:
        if isinstance(item, NewFile):
            received.new = NewFile(item.name or new.name, item.media_type, new.user_id, new.key)
            continue
        size += len(item)
        if size > size_max:
            raise too_large(size_max)
        if len(received.beginning) < SNIFF_BYTES:
            received.beginning += item[: SNIFF_BYTES - len(received.beginning)]
        waiting.append(item)
        waiting_bytes += len(item)
        if waiting_bytes >= PIECE_BYTES // 4:
            await writer.write(b"".join(waiting))
            waiting, waiting_bytes = [], 0
    await writer.write(b"".join(waiting))
    return received


async def _store(
    context: Context, writer: ContentWriter, record: FileRecord, key: "_Key | None"
) -> None:
    shelf, name = context.files, content_of(record)
    async with shelf.locks.hold([name]):
        before = await context.store.contents.size(name)
        async with AsyncExitStack() as stack:
            if before is None:
                async with shelf.usage.deciding:
                    await _check_room(context, record)
                    stack.enter_context(shelf.usage.reserved(name.owner, record.size))
            async with shelf.usage.changing():
                await writer.publish(name.owner)
                shelf.usage.add(name.owner, int(before is None), record.size - (before or 0))
        changes = added(record)
        if key is not None:
            changes.append(key.change(record.view(), context.clock.now_ms()))
        await shelf.records.write(changes)


async def _check_room(context: Context, record: FileRecord) -> None:
    """Refuse a content that goes over a quota: its size is known, so not even the last one may."""
    settings, quotas = context.settings, context.quotas.stored
    limits: list[tuple[str | None, str, int | None]] = [
        (None, "max_stored_bytes", settings.max_stored_bytes)
    ]
    if record.user_id is not None:
        own = settings.max_stored_bytes_per_user
        limits.insert(0, (record.user_id, "max_stored_bytes_per_user", own))
    for whose, setting, limit in limits:
        if limit is not None and await quotas.stored_bytes(whose) + record.size > limit:
            raise LimitReached(
                f"Limit reached: {limit} ({setting}). Delete files or sessions and retry.",
                code="storage-quota-reached",
                retry_after_seconds=60,
            )


def too_large(size_max: int) -> TooLarge:
    """Return the refusal of a file that is too large."""
    return TooLarge(
        f"The file is larger than {size_max} bytes (max_file_bytes).", code="file-too-large"
    )


def _key_name(caller: Caller, key: str) -> tuple[str, str]:
    # Sorted among content names, which are pairs of texts too.
    return "key", sha256("\0".join((caller.id, key)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Key:
    """An idempotency key with the request that it was sent with."""

    caller: Caller
    text: str
    record: FileRecord

    @property
    def name(self) -> str:
        return _key_name(self.caller, self.text)[1]

    @property
    def digest(self) -> str:
        """A digest of what was sent."""
        record = self.record
        said = [record.user_id, record.name, record.media_type, record.sha256]
        return sha256(canonical(said)).hexdigest()

    def change(self, answer: dict[str, Any], now_ms: int) -> ValueChange:
        """Return the change that keeps the answer."""
        return ValueChange(
            KEPT,
            self.name,
            encode(
                {
                    "at": now_ms,
                    "owner": owner_key(self.record.user_id),
                    "digest": self.digest,
                    "answer": answer,
                }
            ),
        )

    def answer_of(self, kept: dict[str, Any]) -> dict[str, Any]:
        """Return the first answer.

        Raises:
            IdempotencyKeyReused: It was the answer to another file.
        """
        if kept["digest"] != self.digest:
            raise IdempotencyKeyReused(
                "This Idempotency-Key was used for another file. Use a new key for a new file."
            )
        answer: dict[str, Any] = kept["answer"]
        return answer


async def _kept(context: Context, name: str) -> dict[str, Any] | None:
    """Return what is kept of the first request with a key, or None."""
    value = await context.store.value(KEPT, name)
    if value is None:
        return None
    kept: dict[str, Any] = decode(value)
    is_old = kept["at"] + IDEMPOTENCY_RETENTION_MS <= context.clock.now_ms()
    return None if is_old else kept

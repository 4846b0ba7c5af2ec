"""What webhooks are told of a session, read from its log."""

from typing import Any, Final, NamedTuple

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.projections import status_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.webhooks import Notice, Webhook, WebhookEvent, notice_id
from bamboo_gateway.storage.base import SessionStore

_MARKS: Final = 100
"""Beginnings and ends of runs that are read at a time."""

_REQUESTS_MAX: Final = 32
"""The events before the end of a run in which its open requests are looked for."""
_REQUESTS_BYTES_MAX: Final = 256 * 1024

_ASKS: Final = "input_required"
"""The `finish_reason` of a run that ended with a question, and the event that asks it."""


class Happened(NamedTuple):
    """Something that webhooks may be told."""

    seq: int
    type: WebhookEvent
    at_ms: int
    data: dict[str, Any]

    def notice(self, webhook: Webhook, session_id: str, user_id: str | None, epoch: int) -> Notice:
        """Return it for one webhook."""
        name = notice_id(webhook.id, session_id, epoch, self.seq, self.type)
        return Notice(name, self.type, self.at_ms, {**self.data, "user_id": user_id})


class Read(NamedTuple):
    """What was read of a log.

    Attributes:
        events: What happened, in order.
        upto: The seq up to which that is all.
    """

    events: list[Happened]
    upto: int


async def read_after(
    store: SessionStore, session_id: str, epoch: int, after: int, upto: int
) -> Read:
    """Return what happened in a session after a seq, up to another one or to a bound.

    Raises:
        Conflict: There is no session of this epoch.
    """
    found = await store.find(session_id, epoch, "run", after=after, before=upto + 1, limit=_MARKS)
    events: list[Happened] = []
    for record in found:
        if record.type not in TERMINAL_TYPES:
            continue
        event = decode(record.body)
        at_ms, position = parse_ms(event["time"]), str(Position(epoch, record.seq))
        data: dict[str, Any] = {
            "session_id": session_id,
            "run_id": event["run_id"],
            "position": position,
            "status": status_of(event),
            "finish_reason": event.get("finish_reason"),
            "error_code": event.get("code"),
        }
        events.append(Happened(record.seq, "run.ended", at_ms, data))
        if event.get("finish_reason") == _ASKS:
            asked = {
                "session_id": session_id,
                "run_id": event["run_id"],
                "position": position,
                "status": "needs_input",
                "requests": await _requests(store, session_id, epoch, record.seq, event["run_id"]),
            }
            events.append(Happened(record.seq, "input.required", at_ms, asked))
    return Read(events, found[-1].seq if found.has_more else upto)


async def _requests(
    store: SessionStore, session_id: str, epoch: int, end: int, run_id: str
) -> list[dict[str, Any]]:
    """Return what a run asked for before its end: without the words, which are content."""
    records = await store.read(
        session_id,
        epoch,
        max(0, end - 1 - _REQUESTS_MAX),
        limit=_REQUESTS_MAX,
        max_bytes=_REQUESTS_BYTES_MAX,
    )
    asked = []
    for record in records:
        if record.seq < end and record.type == _ASKS:
            event = decode(record.body)
            if event.get("run_id", run_id) == run_id:
                asked.append({name: event.get(name) for name in ("request_id", "kind")})
    return asked


async def creation_of(store: SessionStore, head: SessionHead) -> Happened | None:
    """Return the creation of a session, if its log has it.

    Raises:
        Conflict: There is no session of this epoch.
    """
    first = await store.read(head.id, head.epoch, 0, limit=1, max_bytes=1)
    if not first or first[0].type != "session_created":
        return None
    seq = first[0].seq
    data = {
        "session_id": head.id,
        "position": str(Position(head.epoch, seq)),
        "status": "created",
    }
    at_ms = parse_ms(decode(first[0].body)["time"])
    return Happened(seq, "session.created", at_ms, data)


async def seq_before(store: SessionStore, head: SessionHead, since_ms: int) -> int:
    """Return the seq of the last beginning or end of a run before a time; 0 if there is none.

    Raises:
        Conflict: There is no session of this epoch.
    """
    before = head.seq + 1
    while page := await store.find(
        head.id, head.epoch, "run", before=before, limit=_MARKS, reverse=True
    ):
        for record in page:
            if parse_ms(decode(record.body)["time"]) < since_ms:
                return record.seq
        if not page.has_more:
            break
        before = page[-1].seq
    return 0

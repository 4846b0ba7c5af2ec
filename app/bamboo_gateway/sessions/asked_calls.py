"""What people were asked about tool calls: for the run that goes on with them, and for messages."""

from collections.abc import Collection
from typing import Any, NamedTuple

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.base import SessionStore

_PAGE = 20
"""How many messages are looked at together for a call that waits: it is among the last ones."""


class Request(NamedTuple):
    """A request for input, and what became of it.

    Attributes:
        asked: Its `input_required` event.
        settled: Its `input_given` or `input_closed` event; None while it is open.
    """

    asked: dict[str, Any]
    settled: dict[str, Any] | None = None


class PlacedCall(NamedTuple):
    """A tool call, its message, and its place among the calls of the message."""

    call: dict[str, Any]
    message_id: str
    place: int


async def answered_requests(
    store: SessionStore, head: SessionHead, names: Collection[str], before: int
) -> list[Request]:
    """Return the requests whose answers a run begins with; `before` is the seq of its begin."""
    found = [await _request(store, head, name, before) for name in names]
    return [one for one in found if one is not None]


async def message_of_request(store: SessionStore, head: SessionHead, name: str) -> str:
    """Return the message with the call that a request is about.

    An agent may have used the request's id again: the last one counts.

    Raises:
        NotFound: There is no such request, or it is about no call.
    """
    found = await _request(store, head, name, head.seq + 1)
    if found is not None and (call_id := found.asked.get("tool_call_id")):
        # The message with the call is stored when the run ends, at the latest.
        _, end = await _span(store, head, found.asked["run_id"])
        placed = await placed_calls(store, head, [call_id], end)
        if call_id in placed:
            return placed[call_id].message_id
    raise NotFound(f"No request {name!r} about a call.", code="request-not-found")


async def requests_of_runs(
    store: SessionStore, head: SessionHead, run_ids: Collection[str]
) -> list[Request]:
    """Return what runs, and those that went on with the answers, have asked, in order."""
    found: list[Request] = []
    left, seen = list(run_ids), set(run_ids)
    if not await store.count_marks(head.id, head.epoch, "input"):
        return found
    while left:
        run_id = left.pop(0)
        first, end = await _span(store, head, run_id)
        for record in await store.find(head.id, head.epoch, "input", after=first, before=end):
            asked = decode(record.body)
            if asked["type"] != "input_required" or asked.get("run_id") != run_id:
                continue
            later = await store.find(
                head.id,
                head.epoch,
                "input",
                key=asked["request_id"],
                after=record.seq,
                limit=1,
            )
            settled = decode(later[0].body) if later else None
            found.append(Request(asked, settled))
            next_id = (settled or {}).get("run_id")
            if next_id is not None and next_id not in seen:
                seen.add(next_id)
                left.append(next_id)
    return sorted(found, key=lambda one: int(one.asked["seq"]))


async def placed_calls(
    store: SessionStore, head: SessionHead, call_ids: Collection[str], before: int
) -> dict[str, PlacedCall]:
    """Return calls by their ids; calls whose message is not in the log any more are left out."""
    found: dict[str, PlacedCall] = {}
    # Between a call that waits and the run that goes on with it are results of other calls alone.
    while len(found) < len(call_ids):
        page = await store.find(
            head.id, head.epoch, "message", before=before, limit=_PAGE, reverse=True
        )
        if not page:
            break
        before = page[-1].seq
        for message in (decode(record.body)["message"] for record in page):
            for place, call in enumerate(message.get("tool_calls") or ()):
                if call["id"] in call_ids:
                    found.setdefault(call["id"], PlacedCall(call, message["id"], place))
    return found


async def _span(store: SessionStore, head: SessionHead, run_id: str) -> tuple[int, int]:
    """Return the seqs of a run's first event and of its last one; of an active run all others."""
    marks = await store.find(head.id, head.epoch, "run", key=run_id, limit=3)
    if not marks:
        return head.seq, head.seq
    has_ended = decode(marks[-1].body)["type"] in TERMINAL_TYPES
    return marks[0].seq, marks[-1].seq if has_ended else head.seq + 1


async def _request(
    store: SessionStore, head: SessionHead, name: str, before: int
) -> Request | None:
    records = await store.find(
        head.id, head.epoch, "input", key=name, before=before, limit=2, reverse=True
    )
    events = [decode(record.body) for record in records]
    if events and events[0]["type"] == "input_required":
        return Request(events[0])
    return Request(events[1], events[0]) if len(events) == 2 else None

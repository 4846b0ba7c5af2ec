"""All that a run has left in the log: its view, its messages, and what it has asked people."""

from dataclasses import dataclass, field
from typing import Any

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import TooLarge
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.asked_calls import (
    PlacedCall,
    Request,
    answered_requests,
    placed_calls,
)
from bamboo_gateway.sessions.queries import find_run
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import MarkKind

RECORD_BYTES_MAX = 64 * MiB
"""The most bytes of a run's messages that one answer has: they are all in memory meanwhile."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run has left in the log so far.

    Attributes:
        run: The run.
        input: The messages that it answers; of a queued run those that wait.
        output: Its own messages, in the order of the log.
        requests: Its `input_required` events.
        answered: The requests of an earlier run whose answers it goes on with.
        continued: The calls that those are about, as far as they were open.
        is_hidden: Whether `hide_run` has hidden it.
        tip_id: The last message of the current path of the session.
    """

    run: RunView
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    continued: list[PlacedCall] = field(default_factory=list)
    is_hidden: bool = False
    tip_id: str | None = None

    @property
    def last_message_id(self) -> str | None:
        """The last message of the run, or of its input; None while it waits."""
        if self.run["started_at"] is None:
            return None
        said = self.output or self.input
        return said[-1]["id"] if said else None


async def read_record(store: SessionStore, head: SessionHead, run_id: str) -> RunRecord:
    """Read the record of a run. The cost is that of the answer.

    Raises:
        NotFound: There is no such run.
        TooLarge: Its messages are larger than `RECORD_BYTES_MAX`.
    """
    run = await find_run(store, head.id, head.epoch, run_id)
    marked = await store.find(head.id, head.epoch, "run", key=run_id, limit=3)
    first = parse_position(run["position"])
    assert first is not None  # the gateway wrote it
    before = marked[-1].seq + 1 if run["ended_at"] is not None else head.seq + 1
    said = await _events(store, head, "message", run_id, first.seq, before)
    requests = await _events(store, head, "input", run_id, first.seq, before)
    wanted = set(run["message_ids"])
    messages = [event["message"] for event in said]
    given = [message for message in messages if message["id"] in wanted]
    own = [message for message in messages if message["id"] not in wanted]
    if run["started_at"] is None:
        given = decode(marked[0].body)["messages"]
    elif not given and wanted:
        # It answers a message again that an earlier run has.
        for message_id in run["message_ids"]:
            found = await store.find(head.id, head.epoch, "message", key=message_id, limit=1)
            given += [decode(record.body)["message"] for record in found]
    asked = [event for event in requests if event["type"] == "input_required"]
    begun = decode(marked[0].body)
    names, call_ids = begun.get("request_ids") or (), begun.get("tool_call_ids") or ()
    answered = await answered_requests(store, head, names, begun["seq"])
    placed = await placed_calls(store, head, call_ids if names else (), begun["seq"])
    continued = [placed[one] for one in call_ids if one in placed]
    is_hidden = run_id in head.hidden_runs
    return RunRecord(run, given, own, asked, answered, continued, is_hidden, head.tip_id)


async def _events(
    store: SessionStore, head: SessionHead, kind: MarkKind, run_id: str, after: int, before: int
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    size = 0
    while page := await store.find(head.id, head.epoch, kind, after=after, before=before):
        for record in page:
            size += len(record.body)
            event = decode(record.body)
            if event.get("run_id") == run_id:
                found.append(event)
        if size > RECORD_BYTES_MAX:
            raise TooLarge(
                f"The messages of the run are larger than {RECORD_BYTES_MAX} bytes. Read them in "
                "pages, as messages of the session."
            )
        after = page[-1].seq
    return found

"""All that a run has left in the log: its view, its messages, and what it has asked people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import TooLarge
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.queries import find_run
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import MarkKind

RECORD_BYTES_MAX = 64 * MiB
"""The most bytes of a run's messages that one answer has: they are all in memory meanwhile."""

_NEAR = 20
"""How many messages before a run are looked at together for the calls that it goes on with."""


@dataclass(frozen=True, slots=True)
class ContinuedCall:
    """A call that an earlier run has asked people about, and whose result a run gives.

    Attributes:
        call: The call: `id`, `name`, `arguments`.
        message_id: The message that has it.
        place: Its place among the calls of the message.
        request_id: The last request for input about it.
    """

    call: dict[str, Any]
    message_id: str
    place: int
    request_id: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run has left in the log so far.

    Attributes:
        run: The run.
        input: The messages that it answers; of a queued run those that wait.
        output: Its own messages, in the order of the log.
        requests: Its `input_required` events.
        continued: The calls that it goes on with after people were asked about them.
        is_hidden: Whether `hide_run` has hidden it.
        tip_id: The last message of the current path of the session.
    """

    run: RunView
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    requests: list[dict[str, Any]] = field(default_factory=list)
    continued: list[ContinuedCall] = field(default_factory=list)
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
    continued = await _continued(store, head, begun) if begun.get("tool_call_ids") else []
    return RunRecord(run, given, own, asked, continued, run_id in head.hidden_runs, head.tip_id)


async def _continued(
    store: SessionStore, head: SessionHead, begun: Mapping[str, Any]
) -> list[ContinuedCall]:
    """Return the calls that a run goes on with, from its `run_start`."""
    asked: dict[str, str] = {}
    for name in begun.get("request_ids") or ():
        # The run that asked has named the request, and another one may have used the name.
        for record in await store.find(
            head.id, head.epoch, "input", key=name, before=begun["seq"], limit=2, reverse=True
        ):
            event = decode(record.body)
            if event["type"] == "input_required" and "tool_call_id" in event:
                asked[event["tool_call_id"]] = name
    wanted = [call_id for call_id in begun["tool_call_ids"] if call_id in asked]
    found: dict[str, ContinuedCall] = {}
    before = begun["seq"]
    # Between a call that waits and the run that goes on with it are results of other calls alone.
    while len(found) < len(wanted):
        page = await store.find(
            head.id, head.epoch, "message", before=before, limit=_NEAR, reverse=True
        )
        if not page:
            break
        before = page[-1].seq
        for message in (decode(record.body)["message"] for record in page):
            for place, call in enumerate(message.get("tool_calls") or ()):
                name = call["id"]
                if name in asked and name not in found:
                    found[name] = ContinuedCall(call, message["id"], place, asked[name])
    return [found[call_id] for call_id in wanted if call_id in found]


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

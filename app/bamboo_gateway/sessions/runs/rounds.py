"""Rounds of requests for input: what the log has of one, and how the next run begins with it.

A round is the requests of one run (`domain.input_requests`). Its answers become part of the next
run's turn; that run gets the options and the client's tools of the run that asked, unless the
answers name others.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bamboo_gateway.agents.base import Answer
from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import StorageFailed
from bamboo_gateway.domain.events import Draft, Failed, InputRequired, parse_agent_event
from bamboo_gateway.domain.input_requests import calls_of_round
from bamboo_gateway.domain.limits import PAGE_BYTES_MAX
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.observability.tracing import here
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, beginning
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Effect
from bamboo_gateway.storage.base import SessionStore


@dataclass(frozen=True, slots=True)
class Round:
    """The events of a session's present round, by the id of the request.

    Attributes:
        asked: The `input_required` events, in order.
        settled: The `input_given` and `input_closed` events so far.
    """

    asked: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the run that asked."""
        for event in self.asked.values():
            options: dict[str, Any] = event.get("options") or {}
            return options
        return {}

    @property
    def client_tools(self) -> ClientTools:
        """The tools that the client of the run that asked brought."""
        for event in self.asked.values():
            return tuple(event.get("client_tools") or ())
        return ()

    def answers(self, more: Mapping[str, dict[str, Any]]) -> dict[str, Answer]:
        """Return the answers as an agent gets them; `more` are events that are being decided."""
        settled = {**self.settled, **more}
        return {
            name: _answer_of(event, settled[name])
            for name, event in self.asked.items()
            if name in settled
        }


def _answer_of(asked: dict[str, Any], settled: dict[str, Any]) -> Answer:
    is_given = "answer" in settled
    return Answer(
        request_of(asked),
        "answered" if is_given else "expired",
        settled.get("answer"),
        settled.get("user_id"),
        settled["time"],
    )


_MEMBERS = tuple(InputRequired.__dataclass_fields__)


def request_of(asked: dict[str, Any]) -> InputRequired:
    """Return the request as the agent made it, with its id, from its event."""
    event = parse_agent_event({name: asked[name] for name in _MEMBERS if name in asked})
    assert isinstance(event, InputRequired)
    return event


async def load_round(store: SessionStore, head: SessionHead) -> Round:
    """Read the present round; everything decided has to be durable.

    Raises:
        StorageFailed: An event of it cannot be read.
    """
    found = Round()
    seqs = [(one.request_id, one.asked_seq) for one in head.settled_requests]
    seqs += [(one.request_id, one.seq) for one in head.open_requests]
    for name, seq in sorted(seqs, key=lambda pair: pair[1]):
        found.asked[name] = await _event_at(store, head, seq)
    for settled in head.settled_requests:
        found.settled[settled.request_id] = await _event_at(store, head, settled.seq)
    return found


async def _event_at(store: SessionStore, head: SessionHead, seq: int) -> dict[str, Any]:
    records = await store.read(head.id, head.epoch, seq - 1, limit=1, max_bytes=PAGE_BYTES_MAX)
    if not records or records[0].seq != seq:
        raise StorageFailed("A request for input, or its answer, is not in the log any more.")
    event: dict[str, Any] = decode(records[0].body)
    return event


def next_run(
    scheduler: RunScheduler,
    maker: Maker,
    writer: SessionWriter,
    run_id: str,
    answers: Mapping[str, Answer],
    options: dict[str, Any],
    position: str,
    client_tools: ClientTools = (),
) -> tuple[list[Draft], tuple[Effect, ...]]:
    """Return how the run begins that gets the answers of a round, and what executes it.

    An agent that is not configured any more fails the run. External runs wait for their program,
    which sees the `run_start` and posts.

    Args:
        scheduler: Starts the run.
        maker: Makes ids.
        writer: The session's writer; its head is that before the last answers.
        run_id: The run's id.
        answers: What the agent gets.
        options: Its options.
        position: The position before the first event of the commit.
        client_tools: The tools of the client's.
    """
    agent = writer.head.open_requests[0].agent
    calls = calls_of_round(writer.head)
    fields: dict[str, Any] = {"request_ids": list(answers)}
    if calls:
        fields["tool_call_ids"] = calls
    model = scheduler.agents[agent].model_of(options) if agent in scheduler.agents else None
    drafts = beginning(run_id, agent, [], position, model, fields)
    if agent == EXTERNAL:
        return drafts, (scheduler.external_opened(writer),)
    if agent not in scheduler.agents:
        assembler = maker.assembler(run_id)
        assembler.carry(calls)
        failed = Failed(f"The agent {agent!r} is not configured any more.", "unknown_agent")
        return [*drafts, *assembler.end(failed)], (scheduler.slot_freed(writer),)
    start = scheduler.start_of(
        writer,
        run_id,
        agent,
        options,
        here(),
        answers=answers,
        open_calls=calls,
        client_tools=client_tools,
    )
    return drafts, (start,)

"""Ingest: events that external programs post in one request; `ingest_lines` has streamed ones."""

from collections.abc import Mapping
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, InvalidEvent
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.answers import EventsAppended
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.named_files import known_files, with_known_files
from bamboo_gateway.sessions.runs.external import (
    ExternalRuns,
    OutsideEvent,
    PostedEvents,
    busy_with_another_post,
    outside_event,
)
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions


async def append_events(
    context: Context,
    transactions: Transactions,
    external: ExternalRuns,
    caller: Caller,
    session_id: str,
    values: list[Any],
    idem: Idempotency | None,
) -> Outcome[EventsAppended]:
    """Append events that an external program posts, all or none.

    Raises:
        InvalidEvent, NotFound, RunActive, RunEnded, Refused: An event is refused; `extra` has its
            `index` in the list.
    """
    events = []
    for number, value in enumerate(values):
        try:
            events.append(outside_event(value))
        except InvalidEvent as error:
            error.extra["index"] = number
            raise
    known: dict[str, FileRecord] = {}
    run_ids = {run_id for run_id, _ in events if run_id is not None}

    async def prepare(writer: SessionWriter) -> None:
        known.update(await known_files(context, caller, writer, [event for _, event in events]))
        await _check_not_posting(context, session_id, run_ids)
        await external.hold(writer, run_ids)

    def decide(writer: SessionWriter) -> Decision[EventsAppended]:
        posted = _fed(external, writer, events, known)
        drafts = posted.drafts
        first = writer.head.seq + 1
        answer: EventsAppended = {
            "first": str(Position(writer.epoch, first)) if drafts else None,
            "last": str(Position(writer.epoch, first + len(drafts) - 1)) if drafts else None,
            "count": len(events),
        }
        return Decision(drafts, answer, (posted,))

    return await transactions.run(caller, session_id, decide, prepare=prepare, idem=idem)


async def _check_not_posting(context: Context, session_id: str, run_ids: set[str]) -> None:
    """Refuse events of a run while a streamed request of another process posts them.

    Raises:
        Refused: There is such a request.
    """
    replicas = context.store.replicas
    if replicas is None or not run_ids:
        return
    for one in await replicas.present("posting", [session_id]):
        if one.name in run_ids and one.executor != replicas.executor:
            raise busy_with_another_post()


def _fed(
    external: ExternalRuns,
    writer: SessionWriter,
    events: list[OutsideEvent],
    known: Mapping[str, FileRecord],
) -> PostedEvents:
    """Feed all events or none."""
    posted = external.posted(writer)
    for number, (run_id, event) in enumerate(events):
        try:
            if run_id is not None and run_id == writer.posting:
                raise busy_with_another_post()
            posted.feed(run_id, with_known_files(event, known))
        except BambooError as error:
            # Events before this one were fed, and will not be stored.
            writer.drop_external()
            error.extra["index"] = number
            raise
    return posted

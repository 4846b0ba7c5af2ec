"""Finds where a stream that is open until a run's end stops."""

from typing import NamedTuple

import anyio

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.sessions.history import last_of_run
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.base import SessionStore


class Stop(NamedTuple):
    """Where a stream that is open until a run's end stops. At most one field is set.

    With none, there is no such run.

    Attributes:
        seq: Stop at this event: the run has ended.
        run_id: Stop at the terminal event of this run.
        next_run: Stop at the terminal event of the run that starts next.
    """

    seq: int | None = None
    run_id: str | None = None
    next_run: bool = False


async def find_stop(
    store: SessionStore, writer: SessionWriter, cursor: int, run_id: str | None
) -> Stop:
    """Find where a stream that is open until a run's end stops.

    The result holds until the next await.

    Args:
        store: Where the log is.
        writer: The session's writer.
        cursor: Where the stream begins.
        run_id: The run; None: the one that is executing at `cursor`, or else the next.
    """
    if run_id is not None and _is_under_way(writer, run_id):
        return Stop(run_id=run_id)  # known without a search of the log
    while run_id is None:
        seen = writer.durable_seq
        run_id = await _run_at(store, writer, cursor)
        if run_id is None and writer.durable_seq == seen:
            return Stop(next_run=writer.head.active is not None or bool(writer.head.queue))
    while True:
        ended = anyio.Event()
        # Registered before the look-up, so that an end in between is not missed.
        forget = writer.on_run_end(run_id, ended.set)
        try:
            last = await last_of_run(store, writer.id, writer.epoch, run_id)
        finally:
            forget()
        if last is None:
            return Stop()
        if last.type in TERMINAL_TYPES:
            return Stop(seq=last.seq)
        if not ended.is_set():
            return Stop(run_id=run_id)


async def _run_at(store: SessionStore, writer: SessionWriter, cursor: int) -> str | None:
    """Find the run that was executing at a position, else the next that started after it."""
    active = writer.head.active
    if active is not None and active.before_seq <= cursor:
        # A run that is decided and not durable yet is announced once it is.
        return active.run_id if active.start_seq <= writer.durable_seq else None
    before, searching = cursor + 1, True
    ended: set[str] = set()
    while searching and before > 1:
        page = await store.find(
            writer.id, writer.epoch, "run", before=before, limit=100, reverse=True
        )
        for record in page:
            event = decode(record.body)
            if event["type"] in TERMINAL_TYPES:
                ended.add(event["run_id"])
            elif event["type"] == "run_start":
                if event["run_id"] not in ended:
                    return str(event["run_id"])
                searching = False
                break
        searching = searching and bool(page)
        before = page[-1].seq if page else 0
    after = cursor
    while page := await store.find(writer.id, writer.epoch, "run", after=after, limit=100):
        for record in page:
            event = decode(record.body)
            if event["type"] == "run_start":
                return str(event["run_id"])
        after = page[-1].seq
    return None


def _is_under_way(writer: SessionWriter, run_id: str) -> bool:
    """Return whether a run is executing or queued, and durably so: then it has not ended."""
    active = writer.head.active
    if active is not None and active.run_id == run_id:
        return active.start_seq <= writer.durable_seq
    return any(
        queued.run_id == run_id and queued.seq <= writer.durable_seq for queued in writer.head.queue
    )

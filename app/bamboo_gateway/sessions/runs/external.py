"""External runs: nobody here executes them; a program outside posts their events.

Such a run takes the session's one slot, outlives the gateway, and ends with a terminal event, by
cancel, or with `timeout` when nothing was posted for `external_run_timeout_seconds`.
"""

from typing import Any

import structlog

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import (
    BambooError,
    Draining,
    InvalidEvent,
    NotFound,
    Refused,
    RunActive,
    RunEnded,
)
from bamboo_gateway.domain.events import (
    TERMINAL_TYPES,
    AgentEvent,
    Custom,
    Draft,
    Failed,
    TerminalEvent,
    parse_agent_event,
)
from bamboo_gateway.domain.projections import run_view
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.pool import Decision, SessionPool
from bamboo_gateway.sessions.queries import last_of_run
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, beginning, restored
from bamboo_gateway.sessions.streaming.session_writer import ExternalRun, SessionWriter, Vanished

log = structlog.get_logger(__name__)


def outside_event(value: Any) -> tuple[str | None, AgentEvent]:
    """Reads an event that a program outside posts, and the run that it names.

    Raises:
        InvalidEvent: It is no event, or of a type that needs a run and names none.
    """
    if not isinstance(value, dict):
        raise InvalidEvent("An event is a JSON object.")
    run_id = value.get("run_id")
    if run_id is not None and not isinstance(run_id, str):
        raise InvalidEvent("`run_id` is a string.")
    event = parse_agent_event({name: part for name, part in value.items() if name != "run_id"})
    if run_id is None and not isinstance(event, Custom):
        hint = "messages go to /messages" if event.type == "message" else "name its `run_id`"
        raise InvalidEvent(f"`{event.type}` cannot be posted here by itself: {hint}.")
    return run_id, event


def drafts_of(
    live: SessionWriter, run_id: str | None, event: AgentEvent, now: float
) -> list[Draft]:
    """Gives the drafts that a posted event becomes; several of one request belong together.

    Raises:
        RunEnded: The run has its terminal event.
        RunActive: The run is one that the gateway itself executes.
        NotFound: The session's slot is not this run's.
        InvalidEvent: The event does not fit into the run.
    """
    if run_id is None:
        assert isinstance(event, Custom)  # see `outside_event`
        return [Draft("custom", {"name": event.name, "value": event.value})]
    run = live.external
    if run is None or run.run_id != run_id:
        active = live.head.active
        if active is not None and active.run_id == run_id:
            raise RunActive("The gateway itself executes this run; its events cannot be posted.")
        raise NotFound(f"No open external run {run_id!r} in this session.", code="run-not-found")
    run.last_event_at = now
    drafts = run.assembler.feed(event)
    if event.type in TERMINAL_TYPES:
        live.external = None
    return drafts


def ending(live: SessionWriter, terminal: TerminalEvent) -> list[Draft]:
    """Gives what ends the open external run; its assembler has to be there."""
    run, live.external = live.external, None
    assert run is not None
    return run.assembler.end(terminal)


def timed_out(seconds: float) -> Failed:
    """Gives the end of a run that nobody posts to any more."""
    return Failed(f"No event was posted for {seconds:g} seconds.", "timeout")


def busy_with_another_post() -> Refused:
    """The answer to a second producer on one run."""
    return Refused(
        "Another request is posting events of this run; one producer at a time.",
        code="append-in-progress",
    )


def already_ended(run_id: str) -> RunEnded:
    """The answer to events that come after the terminal one."""
    return RunEnded(f"The run {run_id!r} has ended; nothing may follow.")


def _is_held(live: SessionWriter, active: ActiveRun) -> bool:
    """Tells whether the active run's messages are at hand, or here nobody's to make."""
    if active.agent != EXTERNAL:
        return True
    return live.external is not None and live.external.run_id == active.run_id


class ExternalRuns:
    """Opens, feeds and ends external runs."""

    def __init__(self, pool: SessionPool, maker: Maker) -> None:
        self._pool = pool
        self._maker = maker

    async def open(
        self, caller: Caller, session_id: str, run_id: str | None, idem: Idempotency | None
    ) -> Outcome:
        """Opens a run whose events a program outside posts.

        Raises:
            RunActive: A run is executing or waits already.
            Refused: The session has a run of that id.
        """
        name = run_id or self._maker.run_id()
        names = ClientIds(self._pool.store, self.hold, run_id)

        def decide(live: SessionWriter) -> Decision:
            names.check(live)
            head = live.head
            if self._pool.draining:
                raise Draining("The gateway is shutting down; try again in a moment.")
            if head.active or head.queue or live.starting:
                active_id = head.active.run_id if head.active else None
                raise RunActive(
                    "A run is executing or queued in this session.",
                    extra={"active_run_id": active_id},
                )
            self._pool.quotas.check_run(head.user_id)
            drafts = beginning(name, EXTERNAL, [], str(head.position))
            kind, fields = drafts[0]
            time = format_ms(self._pool.clock.now_ms())
            event = {"type": kind, "seq": head.seq + 1, "time": time, **fields}
            live.external = None
            return Decision(drafts, run_view(live.id, live.epoch, [event]))

        return await self._pool.change(caller, session_id, decide, idem=idem, prepare=names.prepare)

    async def hold(self, live: SessionWriter, run_ids: set[str]) -> None:
        """Makes ready for events of external runs: their messages in the making are at hand.

        Afterwards decisions can be made at once, without another await.

        Raises:
            RunEnded: One of the runs has its terminal event.
        """
        never_begun: set[str] = set()
        while True:
            await live.ready()
            active = live.head.active
            elsewhere = run_ids - never_begun - {active.run_id if active else ""}
            if elsewhere:
                never_begun |= await self._never_begun(live, elsewhere.pop())
            elif active is not None and active.run_id in run_ids and not _is_held(live, active):
                await self._load(live, active)
            else:
                return

    async def _load(self, live: SessionWriter, active: ActiveRun) -> None:
        await live.settled()
        assembler = await restored(self._pool.store, self._maker, live, active.run_id)
        if live.external is not None and live.external.run_id == active.run_id:
            return  # Somebody else was faster, and may have fed it since.
        if live.head.active is not None and live.head.active.run_id == active.run_id:
            live.external = ExternalRun(active.run_id, assembler, self._pool.clock.monotonic())

    async def _never_begun(self, live: SessionWriter, run_id: str) -> set[str]:
        """Gives a run that has not the session's slot if it never had it.

        Raises:
            RunEnded: It has its terminal event.
        """
        try:
            # The end may be decided and on its way to the store.
            await live.settled()
        except BambooError:
            return set()  # it was undone: the head says what holds
        last = await last_of_run(self._pool.store, live.id, live.epoch, run_id)
        if last is not None and last.type in TERMINAL_TYPES:
            raise already_ended(run_id)
        return {run_id}

    def end_silent(self) -> None:
        """Ends external runs to which nothing was posted for too long, whoever looks at them."""
        seconds = self._pool.settings.external_run_timeout_seconds
        now = self._pool.clock.monotonic()
        for live in self._pool.sessions:
            active = live.head.active
            if active is None or active.agent != EXTERNAL:
                continue
            held = live.external
            if held is None:
                # Opened just now, or found open at the start: its time counts from here.
                self._pool.spawn(self._take_up, live, active.run_id, name=f"take up {live.id}")
            elif now - held.last_event_at > seconds:
                self.end_later(live, timed_out(seconds))

    async def _take_up(self, live: SessionWriter, run_id: str) -> None:
        with self._pool.keeping(live):
            try:
                await self.hold(live, {run_id})
            except (BambooError, Vanished):
                return  # It has ended, or it is looked at again by the next round.

    def end_later(self, live: SessionWriter, terminal: TerminalEvent) -> None:
        """As `end`, in a task of its own."""
        self._pool.spawn(self._end_unasked, live, terminal, name=f"end {live.id}")

    async def _end_unasked(self, live: SessionWriter, terminal: TerminalEvent) -> None:
        try:
            await self.end(live, terminal)
        except BambooError as error:
            # It is looked at again by the next round.
            log.warning("an external run could not be ended", session_id=live.id, code=error.code)

    async def end(self, live: SessionWriter, terminal: TerminalEvent) -> None:
        """Ends the open external run of a session, if there is one, with what was said.

        Raises:
            BambooError: Its end could not be stored; the run is still open.
        """
        active = live.head.active
        if active is None:
            return
        with self._pool.keeping(live):
            try:
                await self.hold(live, {active.run_id})
                if live.external is None or live.external.run_id != active.run_id:
                    return
                drafts = ending(live, terminal)
                await live.commit(
                    drafts, waiters=[lambda _: self._pool.slot_free(live)], reserve=True
                )
            except (Vanished, RunEnded):
                return

"""External runs: an external program executes them, and posts their events.

Such a run takes the session's one slot and outlives the gateway. It ends with a terminal event, by
cancel, or with `timeout` when nothing was posted for `external_run_timeout_seconds`.

Where several processes share a store, the events of a run may be posted to any of them, and its
silence is that of the session, as the store has it (`Recovery`).
"""

from dataclasses import dataclass
from typing import Any

import structlog
from typing_extensions import override

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.errors import (
    BambooError,
    InvalidEvent,
    NotFound,
    Refused,
    RunActive,
    RunEnded,
)
from bamboo_gateway.domain.events import (
    TERMINAL_TYPES,
    AgentEvent,
    Complete,
    Custom,
    Draft,
    Failed,
    TerminalEvent,
    Thinking,
    Token,
    Usage,
    parse_agent_event,
)
from bamboo_gateway.domain.input_requests import check_not_asked
from bamboo_gateway.domain.sessions import ActiveRun
from bamboo_gateway.domain.views import RunView, run_view
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import last_of_run
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Maker, beginning, restored
from bamboo_gateway.sessions.streaming.session_writer import (
    ExternalRun,
    LookAgain,
    SessionWriter,
    Vanished,
)
from bamboo_gateway.sessions.transaction import Decision, Effect, Transactions

log = structlog.get_logger(__name__)

OutsideEvent = tuple[str | None, AgentEvent]
"""The run that a posted event names, and the event."""


def outside_event(value: Any) -> OutsideEvent:
    """Return the run that a posted event names, and the event.

    Raises:
        InvalidEvent: It is no event, or its type needs a run and it names none.
    """
    if (delta := _plain_delta(value)) is not None:
        return delta
    run_id = None
    if isinstance(value, dict) and "run_id" in value:
        run_id = value["run_id"]
        if run_id is not None and not isinstance(run_id, str):
            raise InvalidEvent("`run_id` must be a string.")
        value = {name: part for name, part in value.items() if name != "run_id"}
    event = parse_agent_event(value)
    if run_id is None and not isinstance(event, Custom):
        hint = "messages go to /messages" if event.type == "message" else "name its `run_id`"
        raise InvalidEvent(f"`{event.type}` cannot be posted here by itself: {hint}.")
    return run_id, event


def _plain_delta(value: Any) -> OutsideEvent | None:
    """Return a delta of text, as most events are, or None when the parser has to look.

    It returns what the parser would, in half of the time. A `match` would take longer than both.
    """
    if type(value) is not dict or len(value) != 3:
        return None
    kind, run_id, text = value.get("type"), value.get("run_id"), value.get("content")
    if type(run_id) is str and type(text) is str:
        if kind == "token":
            return run_id, Token(text)
        if kind == "thinking":
            return run_id, Thinking(text)
    return None


def _drafts_of(writer: SessionWriter, run_id: str | None, event: AgentEvent) -> list[Draft]:
    """Return the drafts of a posted event, and add the event to the run's unfinished messages.

    Raises:
        RunEnded: The run has its terminal event.
        RunActive: The gateway itself executes the run.
        NotFound: No such external run is open.
        InvalidEvent: The event does not fit into the run.
    """
    if run_id is None:
        assert isinstance(event, Custom)  # `outside_event` lets nothing else through
        return [Draft("custom", {"name": event.name, "value": event.value})]
    run = writer.external
    if run is None or run.run_id != run_id:
        active = writer.head.active
        if active is not None and active.run_id == run_id:
            raise RunActive("The gateway itself executes this run; its events cannot be posted.")
        raise NotFound(f"No open external run {run_id!r} in this session.", code="run-not-found")
    return run.assembler.feed(event)


class PostedEvents(Effect):
    """Posted events on their way into one commit, and the effect of that commit.

    Each event is fed to the unfinished messages of its run, which are then ahead of the log. So a
    caller has to commit all that was fed, with this effect, or to drop the unfinished messages: the
    next post makes them again from the log. `ExternalRuns.posted` makes one.

    Attributes:
        drafts: The drafts of the events so far.
        count: How many events these are.
    """

    __slots__ = ("_ended", "_fed", "_now", "_runs", "_usage", "_writer", "count", "drafts")

    def __init__(self, runs: "ExternalRuns", writer: SessionWriter, now: float) -> None:
        self.drafts: list[Draft] = []
        self.count = 0
        self._runs = runs
        self._writer = writer
        self._now = now
        self._fed: ExternalRun | None = None
        self._ended: str | None = None
        self._usage: Usage | None = None

    def feed(self, run_id: str | None, event: AgentEvent) -> None:
        """Add an event.

        Raises:
            RunEnded, RunActive, NotFound, InvalidEvent: The event is refused; those before it stay.
        """
        if run_id is not None and run_id == self._ended:
            raise already_ended(run_id)
        self.drafts += _drafts_of(self._writer, run_id, event)
        self.count += 1
        if run_id is not None:
            self._fed = self._writer.external
            if event.type in TERMINAL_TYPES:
                self._ended = run_id
                self._usage = event.usage if isinstance(event, Complete) else None

    @override
    def decided(self) -> None:
        if self._fed is not None:
            self._fed.last_event_at = self._now
            if self._ended is not None:
                self._writer.drop_external(self._fed)

    @override
    def committed(self) -> None:
        if self._usage is not None:
            self._runs.spend(self._writer, self._usage)
        if self._ended is not None:
            self._runs.slot_free(self._writer)

    @override
    def undone(self) -> None:
        if self._fed is not None:
            self._writer.drop_external(self._fed)
        if self._ended is not None:
            self._runs.slot_free(self._writer)


@dataclass(frozen=True, slots=True)
class _Opened(Effect):
    """The effect of opening an external run."""

    writer: SessionWriter

    @override
    def decided(self) -> None:
        self.writer.drop_external()


def timed_out(seconds: float) -> Failed:
    """Return the terminal event of a run to which nothing was posted for too long."""
    return Failed(f"No event was posted for {seconds:g} seconds.", "timeout")


def busy_with_another_post() -> Refused:
    """Return the refusal of a second producer on one run."""
    return Refused(
        "Another request is appending events of this run.",
        code="append-in-progress",
    )


def already_ended(run_id: str) -> RunEnded:
    """Return the refusal of events that come after the terminal one."""
    return RunEnded(f"The run {run_id!r} has its terminal event. No event can follow it.")


def _is_held(writer: SessionWriter, active: ActiveRun) -> bool:
    """Return whether memory has the active run's unfinished messages, or needs none of them."""
    if active.agent != EXTERNAL:
        return True
    return writer.external is not None and writer.external.run_id == active.run_id


def can_feed(writer: SessionWriter) -> bool:
    """Return whether events of the active run can be fed at once (`ExternalRuns.hold`)."""
    active = writer.head.active
    return writer.is_ready and (active is None or _is_held(writer, active))


class ExternalRuns:
    """Opens, feeds and ends external runs."""

    def __init__(self, context: Context, transactions: Transactions, maker: Maker) -> None:
        self._context = context
        self._transactions = transactions
        self._registry = transactions.registry
        self._maker = maker

    def slot_free(self, writer: SessionWriter) -> None:
        """Report that an external run of the session may have ended."""
        self._registry.slot_free(writer)

    def opened(self, writer: SessionWriter) -> Effect:
        """Return the effect of a decision that begins an external run."""
        return _Opened(writer)

    async def open(
        self, caller: Caller, session_id: str, run_id: str | None, idem: Idempotency | None
    ) -> Outcome[RunView]:
        """Open a run whose events an external program posts.

        Raises:
            RunActive: A run is executing or queued already.
            Refused: The session has a run of that id.
            LimitReached: The user's tokens of the day are spent.
        """
        name = run_id or self._maker.run_id()
        names = ClientIds(self._context.store, self.hold, run_id)

        def decide(writer: SessionWriter) -> Decision[RunView]:
            names.check(writer)
            head = writer.head
            self._context.drain.check()
            writer.check_not_busy("A run is executing or queued in this session.")
            self._context.budget.check(head.user_id)
            check_not_asked(head)
            self._context.quotas.check_run(head.user_id)
            drafts = beginning(name, EXTERNAL, [], str(head.position))
            kind, fields = drafts[0]
            time = format_ms(self._context.clock.now_ms())
            event = {"type": kind, "seq": head.seq + 1, "time": time, **fields}
            return Decision(drafts, run_view(writer.id, writer.epoch, [event]), (_Opened(writer),))

        async def prepare(writer: SessionWriter) -> None:
            await self._context.budget.look_up(writer.head.user_id)
            await names.prepare(writer)

        return await self._transactions.run(caller, session_id, decide, prepare=prepare, idem=idem)

    def spend(self, writer: SessionWriter, usage: Usage) -> None:
        """Count what an external run has used; its end is stored already."""
        spend = self._context.budget.spend
        if self._context.budget.is_limited:
            self._context.tasks.spawn(spend, writer.head.user_id, usage, name=f"spend {writer.id}")

    def posted(self, writer: SessionWriter) -> PostedEvents:
        """Begin a commit of events that are posted now. `hold` comes before."""
        return PostedEvents(self, writer, self._context.clock.monotonic())

    async def hold(self, writer: SessionWriter, run_ids: set[str]) -> None:
        """Load the unfinished messages of external runs, if one of them is the active run.

        Afterwards a decision can be made at once, without another await.

        Raises:
            RunEnded: One of the runs has its terminal event.
        """
        never_begun: set[str] = set()
        while True:
            await writer.ready()
            active = writer.head.active
            elsewhere = run_ids - never_begun - {active.run_id if active else ""}
            if elsewhere:
                never_begun |= await self._never_begun(writer, elsewhere.pop())
            elif active is not None and active.run_id in run_ids and not _is_held(writer, active):
                await self._load(writer, active)
            else:
                return

    async def _load(self, writer: SessionWriter, active: ActiveRun) -> None:
        await writer.settled()
        assembler = await restored(self._context.store, self._maker, writer, active.run_id)
        if writer.external is not None and writer.external.run_id == active.run_id:
            return  # another call was faster, and may have fed it since
        if writer.head.active is not None and writer.head.active.run_id == active.run_id:
            now = self._context.clock.monotonic()
            writer.hold_external(ExternalRun(active.run_id, assembler, now))

    async def _never_begun(self, writer: SessionWriter, run_id: str) -> set[str]:
        """Return the run if it never had the session's slot. It does not have the slot now.

        Raises:
            RunEnded: It has its terminal event.
        """
        try:
            # The end may be decided and on its way to the store.
            await writer.settled()
        except BambooError:
            return set()  # it was undone: the head shows what holds
        last = await last_of_run(self._context.store, writer.id, writer.epoch, run_id)
        if last is not None and last.type in TERMINAL_TYPES:
            raise already_ended(run_id)
        return {run_id}

    def end_silent(self) -> None:
        """End the external runs to which nothing was posted for too long."""
        if self._context.store.replicas is not None:
            return  # memory has only what was posted here
        seconds = self._context.settings.external_run_timeout_seconds
        now = self._context.clock.monotonic()
        for writer in self._registry.sessions:
            active = writer.head.active
            if active is None or active.agent != EXTERNAL:
                continue
            held = writer.external
            if held is None:
                # It was opened just now, or was open when the gateway started: its time begins now.
                self._context.tasks.spawn(
                    self._take_up, writer, active.run_id, name=f"take up {writer.id}"
                )
            elif now - held.last_event_at > seconds:
                self.end_later(writer, timed_out(seconds))

    async def end_if_silent(self, writer: SessionWriter) -> None:
        """End the external run of a session in which nothing has happened for too long.

        Raises:
            BambooError: The end could not be stored; the run is still open.
        """
        active, seconds = writer.head.active, self._context.settings.external_run_timeout_seconds
        silent_ms = self._context.clock.now_ms() - writer.head.last_activity_at
        if active is not None and active.agent == EXTERNAL and silent_ms > seconds * 1000:
            await self.end(writer, timed_out(seconds))

    async def _take_up(self, writer: SessionWriter, run_id: str) -> None:
        with self._registry.keeping(writer):
            try:
                await self.hold(writer, {run_id})
            except (BambooError, Vanished):
                return  # it has ended, or the next round looks at it again

    def end_later(self, writer: SessionWriter, terminal: TerminalEvent) -> None:
        """End the open external run, as `end`, in a background task."""
        self._context.tasks.spawn(self._end_unasked, writer, terminal, name=f"end {writer.id}")

    async def _end_unasked(self, writer: SessionWriter, terminal: TerminalEvent) -> None:
        try:
            await self.end(writer, terminal)
        except BambooError as error:
            # The next round tries again.
            log.warning("an external run could not be ended", session_id=writer.id, code=error.code)

    async def end(self, writer: SessionWriter, terminal: TerminalEvent) -> None:
        """End the open external run of a session, if there is one, with its messages so far.

        Raises:
            BambooError: The end could not be stored; the run is still open.
        """
        active = writer.head.active
        if active is None:
            return
        with self._registry.keeping(writer):
            while True:
                try:
                    await self._end(writer, active.run_id, terminal)
                except (Vanished, RunEnded):
                    return
                except LookAgain:
                    continue  # another process has changed the session
                else:
                    return

    async def _end(self, writer: SessionWriter, run_id: str, terminal: TerminalEvent) -> None:
        await self.hold(writer, {run_id})
        run = writer.external
        if run is None or run.run_id != run_id:
            return
        posted = self.posted(writer)
        posted.feed(run.run_id, terminal)
        decision: Decision = Decision(posted.drafts, {}, (posted,), reserve=True)
        await self._transactions.commit(writer, decision)

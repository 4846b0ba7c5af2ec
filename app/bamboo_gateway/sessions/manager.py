"""SessionManager: the one entry to sessions, for routes and for programs that embed the gateway.

Each method names its caller. Arguments, answers and errors are plain data without any HTTP.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import anyio
import structlog

from bamboo_gateway.agents.base import Agent
from bamboo_gateway.bus.base import Bus
from bamboo_gateway.domain.callers import GATEWAY, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError, Draining, StorageFull, Unavailable
from bamboo_gateway.domain.ids import IdMaker
from bamboo_gateway.observability.audit import AuditLog
from bamboo_gateway.sessions.changes.feed import ChangeFeed
from bamboo_gateway.sessions.context import BackgroundTasks, Context, Drain
from bamboo_gateway.sessions.conversation_commands import ConversationCommands
from bamboo_gateway.sessions.erasure import ForgetKeys, no_keys
from bamboo_gateway.sessions.file_commands import FileCommands
from bamboo_gateway.sessions.file_shelf.shelf import FileShelf
from bamboo_gateway.sessions.files import sweep
from bamboo_gateway.sessions.lifecycle import archive, retention
from bamboo_gateway.sessions.lifecycle.compaction import Compaction
from bamboo_gateway.sessions.lifecycle_commands import LifecycleCommands
from bamboo_gateway.sessions.metrics import Levels, Tally, measure
from bamboo_gateway.sessions.quotas import Quotas
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.runs.abandoned import AbandonedRuns
from bamboo_gateway.sessions.runs.cancellation import Cancellation
from bamboo_gateway.sessions.runs.chat import ChatService
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import EXTERNAL, Agents, Maker
from bamboo_gateway.sessions.runs.input_expiry import InputExpiry
from bamboo_gateway.sessions.runs.inputs import InputService
from bamboo_gateway.sessions.runs.recovery import Recovery
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.runs.titling import Titles, check_titles
from bamboo_gateway.sessions.session_state import SessionStates
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.follower import SessionFollower
from bamboo_gateway.sessions.streaming.hub import StreamHub
from bamboo_gateway.sessions.streaming.joint_opening import JointStreams
from bamboo_gateway.sessions.streaming.presences import StreamPresences
from bamboo_gateway.sessions.token_budget import TokenBudget
from bamboo_gateway.sessions.transaction import Transactions
from bamboo_gateway.sessions.webhook_commands import WebhookCommands
from bamboo_gateway.sessions.webhooks.administration import WebhookService
from bamboo_gateway.sessions.webhooks.reports import measure_webhooks
from bamboo_gateway.sessions.webhooks.service import Webhooks
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Event
from bamboo_gateway.webhooks.base import Sender

log = structlog.get_logger(__name__)

_HOUSEKEEPING_SECONDS = 1.0
"""How long to wait between two checks for idle sessions and silent external runs."""


class SessionManager(ConversationCommands, LifecycleCommands, FileCommands, WebhookCommands):
    """Creates, finds, changes and streams sessions, and owns the runs in them.

    There is one in a process. It is an async context manager: entering recovers the runs that the
    last process left open, leaving stops the runs and streams that are still open. The store has to
    be open before, and its owner closes it afterwards.

    Args:
        store: Where the logs are.
        agents: Who answers, by name.
        settings: Limits and times.
        clock: The only source of time.
        may_stay: Called every second for each open stream: whether its caller's right still holds.
        audit: Where scheduled deletions are recorded; None: nowhere.
        forget_keys: Removes the keys of a user who is erased.
        sender: Sends webhooks; None: there are none.
        link: Returns the URL of a session for the receivers of webhooks.
        bus: Tells other gateways of commits, and this one of theirs; None: there is none. Its owner
            enters it before, and leaves it afterwards.

    Raises:
        AgentConfigError: `titles` names an agent that there is not.
    """

    def __init__(
        self,
        store: SessionStore,
        agents: Mapping[str, Agent],
        settings: Settings,
        clock: Clock,
        may_stay: Callable[[Caller], bool] = lambda _: True,
        audit: AuditLog | None = None,
        forget_keys: ForgetKeys = no_keys,
        sender: Sender | None = None,
        link: Callable[[str], str] = str,
        bus: Bus | None = None,
    ) -> None:
        self._store = store
        self._agents = Agents(agents)
        check_titles(settings.titles, self._agents)
        self._settings = settings
        self._clock = clock
        self._may_stay = may_stay
        self._audit = audit
        self._forget_keys = forget_keys
        self._sender = sender
        self._link = link
        self._bus = bus
        self._is_ready = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            group = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(group.cancel_scope.cancel)
            tasks = BackgroundTasks(group)
            stack.callback(tasks.close)
            self._build(tasks)
            stack.callback(self._give_up)
            context, registry = self._context, self._registry
            recovery = Recovery(
                context,
                self._transactions,
                self._abandoned,
                self._scheduler,
                self._external,
                self._input_expiry,
            )
            self._store.when_renewed(
                lambda: tasks.spawn(recovery.begin_again, name="sessions with new epochs")
            )
            closed = await recovery.recover()
            if closed:
                log.info("closed runs that were interrupted", runs=closed)
            if (replicas := self._store.replicas) is not None:
                replicas.when_lost(self._scheduler.lost)
                recovery.follow(replicas)
            for name, call, args in (
                ("stream clock", self._hub.clock.run, ()),
                ("change feed", self._feed.run, ()),
                ("housekeeping", self._keep_house, ()),
                ("compaction", self._compaction.run, ()),
                ("titles that are owed", self._titles.take_up, ()),
                (
                    "scheduled cleanup",
                    retention.schedule,
                    (context, self._transactions, GATEWAY, self._audit),
                ),
                ("sweeping files", sweep.schedule, (context,)),
                ("packing archives", archive.pack_left_over, (context, registry)),
            ):
                tasks.spawn(call, *args, name=name)
            if self._follower is not None and self._presences is not None:
                tasks.spawn(self._follower.run, name="following other processes")
                tasks.spawn(self._presences.run, name="presence of streams")
            await self._webhooks.start()
            self._is_ready = True
            self._stack = stack.pop_all()
        return self

    def _build(self, tasks: BackgroundTasks) -> None:
        store, settings, clock = self._store, self._settings, self._clock
        channels = self._channels = Channels(store, settings, clock)
        files = FileShelf(store, clock)
        quotas = Quotas(store, settings, files.usage)
        self._context = Context(
            store=store,
            settings=settings,
            clock=clock,
            ids=IdMaker(),
            quotas=quotas,
            files=files,
            budget=TokenBudget(store, settings, clock),
            states=SessionStates(clock, channels),
            tally=Tally((*self._agents, EXTERNAL)),
            tasks=tasks,
            drain=Drain(),
            bus=self._bus,
        )
        self._registry = SessionRegistry(self._context, channels)
        self._feed = ChangeFeed(self._context)
        self._registry.on_change = self._changed
        self._transactions = Transactions(self._context, self._registry)
        self._maker = Maker(self._context)
        self._external = ExternalRuns(self._context, self._transactions, self._maker)
        self._titles = Titles(self._context, self._transactions, self._agents)
        self._scheduler = RunScheduler(
            self._context,
            self._transactions,
            self._agents,
            self._maker,
            self._external,
            self._titles,
        )
        self._chats = ChatService(
            self._context, self._transactions, self._maker, self._external, self._scheduler
        )
        self._inputs = InputService(
            self._context, self._transactions, self._maker, self._external, self._scheduler
        )
        self._input_expiry = InputExpiry(
            self._context, self._transactions, self._maker, self._scheduler
        )
        self._abandoned = AbandonedRuns(self._context, self._transactions, self._maker)
        self._cancellation = Cancellation(
            self._context, self._transactions, self._maker, self._external, self._abandoned
        )
        self._presences = self._follower = None
        if (replicas := store.replicas) is not None:
            self._presences = StreamPresences(
                self._context, channels, replicas, self._registry.touched
            )
            self._follower = SessionFollower(
                self._context, channels, self._registry, replicas, self._bus
            )
        self._hub = StreamHub(
            self._context, self._registry, channels, self._may_stay, self._presences
        )
        self._joint_streams = JointStreams(self._context, self._registry, channels, self._hub)
        self._compaction = Compaction(self._context, self._registry)
        self._webhooks = Webhooks(self._context, self._sender, self._link, self._audit)
        self._webhook_service = WebhookService(self._context, self._webhooks)
        self._transactions.before_deletion = self._webhooks.before_deletion

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.drain()
        self._is_ready = False
        try:
            await self._stack.__aexit__(kind, error, traceback)
        except BaseExceptionGroup as group:
            # The task group also wraps an exception of the block itself. That is the program's own
            # error, or its `sys.exit`: raise it unwrapped.
            if error is None or group.exceptions != (error,):
                raise

    # -- the process ------------------------------------------------------------------------

    def check_ready(self) -> str:
        """Check that the gateway accepts work. The error's `check` names what prevents it.

        Returns:
            `ready`, or that the disk is full. On a full disk reads, streams and deletions go on,
            and only writes are refused.

        Raises:
            Unavailable: The gateway does not accept work: `recovery`, `drain` or `storage`.
        """
        if not self._is_ready:
            raise not_recovered()
        if self._context.drain.has_begun:
            raise Draining(
                "The gateway is shutting down; its successor will answer.",
                extra={"check": "drain"},
            )
        if not self._store.is_writing:
            raise Unavailable(
                "The store's writer has ended: nothing can be stored before a restart.",
                extra={"check": "storage"},
            )
        refusal = self._store.refusal
        if isinstance(refusal, StorageFull):
            return f"read-only: {refusal.detail}"
        if refusal is not None:
            raise Unavailable(refusal.detail, extra={"check": "storage"})
        return "ready"

    @property
    def is_ready(self) -> bool:
        """Whether the gateway accepts work."""
        try:
            self.check_ready()
        except Unavailable:
            return False
        return True

    def begin_drain(self) -> None:
        """Refuse new work, and end the streams that wait for nothing."""
        if self._is_ready and self._context.drain.begin():
            self._hub.farewell()
            self._webhooks.begin_drain()
            for channel in self._channels.all():
                channel.wake_waiters()
            self._feed.wake_all()

    async def drain(self) -> None:
        """End the runs within `drain_timeout_seconds`, and every stream after its run."""
        self.begin_drain()
        until = self._clock.monotonic() + self._settings.drain_timeout_seconds
        await self._scheduler.finish(self._settings.drain_timeout_seconds)
        self._hub.farewell(runs_are_over=True)
        await self._webhooks.finish(max(0, until - self._clock.monotonic()))

    def _give_up(self) -> None:
        """Start no more runs, and leave those that have not ended to the next start."""
        self._context.drain.begin()
        self._scheduler.give_up()

    async def stats(self) -> dict[str, Any]:
        """Return the counters and levels of the application and of the store, for /metrics."""
        sessions = self._registry.sessions
        files: tuple[int, int] | None = None
        with suppress(BambooError):
            files = await self._context.files.usage.totals()
        levels = Levels(
            files=files,
            sessions_in_memory=len(sessions),
            runs_active=sum(writer.run is not None for writer in sessions),
            runs_queued=sum(len(writer.head.queue) for writer in sessions),
            streams_open=self._hub.open,
            stream_lags=self._hub.lags(),
        )
        measures = await measure(self._context.tally, self._store, levels)
        refused = {"budget_refusals_total": self._context.budget.refusals}
        webhooks = measure_webhooks(self._webhooks)
        bus = self._bus.stats() if self._bus is not None else {}
        return {"ready": float(self.is_ready), **refused, **measures, **webhooks, **bus}

    def _changed(self, events: Sequence[Event]) -> None:
        self._feed.changed(events)
        self._webhooks.changed(events)

    async def _keep_house(self) -> None:
        while True:
            await anyio.sleep(_HOUSEKEEPING_SECONDS)
            self._registry.evict_idle()
            self._external.end_silent()
            self._input_expiry.expire_due()


def not_recovered() -> Unavailable:
    """Return the refusal of work before all sessions are recovered."""
    return Unavailable(
        "The gateway is recovering its sessions; try again in a moment.",
        extra={"check": "recovery"},
    )

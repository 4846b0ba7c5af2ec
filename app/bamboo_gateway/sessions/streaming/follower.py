"""SessionFollower: learns what other processes have stored in the sessions that are watched here.

Watched are the sessions with a channel, and those whose writer is busy: a run that is executed
here may have to end because somebody elsewhere wishes so. All of them are looked at in one
statement, and what has moved is read into its channel, or by its writer if one is in memory.

A bus says sooner what has moved, and brings the events. It is never relied upon: a notice that does
not continue what the channel has makes the follower look at the store, and while the bus is up all
sessions are still looked at, less often.
"""

import asyncio
from collections.abc import Collection
from typing import Protocol

import anyio
import structlog

from bamboo_gateway.bus.base import Bus, Notice
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.absorbing import changes_head, missing_records
from bamboo_gateway.sessions.streaming.channel import Channel
from bamboo_gateway.sessions.streaming.channels import Channels
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.storage.commits import Record
from bamboo_gateway.storage.replicas import Look, Replicas

log = structlog.get_logger(__name__)

_POLL_SECONDS = 0.25
"""How often all watched sessions are looked at without a bus: people do not see such a delay."""

_POLL_WITH_BUS_SECONDS = 2.0
"""The same while the bus is up. It bounds how long a notice that was lost is missed."""

_SHARE_OF_TIME = 4
"""A look that took long is not repeated before this many times as long: a process that watches
tens of thousands of sessions leaves the store to others."""

_LOOK_SESSIONS = 2000
"""Sessions of one look: the looks of requests are sent together with it, and wait for it."""

_READS_AT_ONCE = 8
"""The sessions that are read at once. Each takes a thread of the store, and readers need some."""

_FAILED_SECONDS = 1.0
"""How long to wait before the store is asked again that did not answer."""


class Writers(Protocol):
    """What the follower needs of the session registry (`sessions.registry.SessionRegistry`)."""

    @property
    def sessions(self) -> list[SessionWriter]:
        """The sessions in memory."""
        raise NotImplementedError

    def get(self, session_id: str) -> SessionWriter | None:
        """Return the session if it is in memory."""

    def moved(self, session_id: str, look: Look | None) -> bool:
        """Report what the store has of a session; None: there is no such session.

        Returns:
            Whether a writer is in memory, which then takes in what is new by itself.
        """
        raise NotImplementedError


class SessionFollower:
    """Follows what other processes store; `run` is a background task.

    Args:
        context: Has the store and the counters.
        channels: The channels that have readers.
        writers: The sessions in memory.
        replicas: The other processes.
        bus: Says sooner what has moved; None: there is none.
    """

    def __init__(
        self,
        context: Context,
        channels: Channels,
        writers: Writers,
        replicas: Replicas,
        bus: Bus | None = None,
    ) -> None:
        self._store = context.store
        self._clock = context.clock
        self._tally = context.tally
        self._channels = channels
        self._writers = writers
        self._replicas = replicas
        self._bus = bus
        self._subscribed: set[str] = set()
        self._due: set[str] = set()
        self._old_heads: set[str] = set()
        self._stirred = asyncio.Event()
        self._has_failed = False
        if bus is not None:
            bus.when_noticed(self._noticed)
            bus.when_missed(self._missed)
            bus.when_switched(lambda _: self._stirred.set())

    async def run(self) -> None:
        """Look at the watched sessions, again and again."""
        loop = asyncio.get_running_loop()
        next_full = loop.time()
        while True:
            watched = self._watched()
            self._subscribe(watched)
            began = loop.time()
            is_full = began >= next_full or not self._has_bus
            wanted = watched if is_full else self._due & watched
            self._due = set()
            self._stirred.clear()
            if not await self._look_at_all(wanted):
                self._due |= wanted
                await anyio.sleep(_FAILED_SECONDS)
                continue
            await self._load_heads()
            took = loop.time() - began
            if is_full:
                next_full = loop.time() + max(_POLL_WITH_BUS_SECONDS, _SHARE_OF_TIME * took)
            with anyio.move_on_after(max(_POLL_SECONDS, _SHARE_OF_TIME * took)):
                await self._stirred.wait()

    @property
    def _has_bus(self) -> bool:
        return self._bus is not None and self._bus.is_up

    def _watched(self) -> set[str]:
        busy = {writer.id for writer in self._writers.sessions if not writer.is_idle}
        return busy | self._channels.open.keys()

    def _subscribe(self, watched: set[str]) -> None:
        if self._bus is None:
            return
        for session_id in self._subscribed - watched:
            self._bus.unwatch(session_id)
        for session_id in watched - self._subscribed:
            # It names the session in `when_missed` once the notices come.
            self._bus.watch(session_id)
        self._subscribed = watched

    # -- looking at the store -------------------------------------------------------------------

    async def _look_at_all(self, session_ids: Collection[str]) -> bool:
        """Look at sessions and take in what is new; return whether the store answered."""
        waiting = list(session_ids)
        while waiting:
            some, waiting = waiting[:_LOOK_SESSIONS], waiting[_LOOK_SESSIONS:]
            if not await self._look(some):
                return False
        return True

    async def _look(self, session_ids: Collection[str]) -> bool:
        """Look at as many sessions as fit one statement, as `_look_at_all`."""
        # A channel that is opened meanwhile may be newer than the look.
        channels = {session_id: self._channels.get(session_id) for session_id in session_ids}
        try:
            looks = await self._replicas.look(session_ids)
            self._tally.follower_looks += 1
            async with anyio.create_task_group() as tasks:
                at_once = anyio.CapacityLimiter(_READS_AT_ONCE)
                for session_id, channel in channels.items():
                    look = looks.get(session_id)
                    if self._writers.moved(session_id, look) or channel is None:
                        continue
                    if self._is_behind(channel, look):
                        tasks.start_soon(self._catch_up, channel, looks[session_id], at_once)
        except BambooError as error:
            # The boundary for a store that does not answer now: streams wait for the next look.
            if not self._has_failed:
                log.warning("watched sessions cannot be looked at", error=error.detail)
            self._has_failed = True
            return False
        self._has_failed = False
        return True

    def _is_behind(self, channel: Channel, look: Look | None) -> bool:
        """Return whether a channel lacks something; end its streams when its log is gone."""
        if channel.gone or self._channels.get(channel.id) is not channel:
            return False
        if look is None or look.epoch != channel.epoch:
            # The log has another epoch: clients reconnect and get `reset`.
            channel.vanish("deleted" if look is None else "shutdown")
            return False
        return look.version > channel.version or look.seq > channel.durable_seq

    async def _catch_up(self, channel: Channel, look: Look, at_once: anyio.CapacityLimiter) -> None:
        async with at_once:
            try:
                await self._absorb_page(channel, look)
            except BambooError:
                # The next look finds what it is, as long as there are readers.
                self._due.add(channel.id)
            except Exception:
                # The boundary for a session with damaged events: it takes the others nothing (R10).
                log.exception("a watched session cannot be read", session_id=channel.id)
                channel.vanish("shutdown")

    async def _absorb_page(self, channel: Channel, look: Look) -> None:
        """Read one page of what a channel lacks, up to what a look has seen.

        Raises:
            BambooError: The session is gone, or the store does not answer now.
        """
        begin, head = channel.durable_seq, None
        records: list[Record] = []
        if look.seq > begin:  # else a commit of notes alone, or one that the bus has brought
            records = await missing_records(self._store, channel, look.seq)
            if changes_head(records) or not records:
                head = await self._store.load(channel.id)
        if self._has_moved(channel, begin) or (head is not None and head.epoch != channel.epoch):
            self._due.add(channel.id)
            return
        self._tally.follower_events["store",] += len(records)
        if head is not None and not records:
            # Compaction has removed all up to the end: readers go on behind it.
            channel.begin(head)
            channel.wake()
            return
        is_whole = (records[-1].seq if records else begin) >= look.seq
        channel.absorb(records, look.version if is_whole else channel.version, head)
        if not is_whole:
            self._look_soon(channel.id)

    def _has_moved(self, channel: Channel, begin: int) -> bool:
        """Return whether a channel is not the follower's to extend any more."""
        return (
            channel.gone
            or channel.durable_seq != begin
            or self._writers.get(channel.id) is not None
        )

    async def _load_heads(self) -> None:
        """Load the heads of channels that events of the bus were more than deltas for."""
        while self._old_heads:
            channel = self._channels.get(self._old_heads.pop())
            if channel is None or self._writers.get(channel.id) is not None:
                continue
            try:
                head = await self._store.load(channel.id)
            except BambooError:
                self._old_heads.add(channel.id)
                return
            if head is None or head.epoch != channel.epoch:
                self._due.add(channel.id)
            elif not channel.gone and self._writers.get(channel.id) is None:
                channel.head = head

    def _look_soon(self, session_id: str) -> None:
        self._due.add(session_id)
        self._stirred.set()

    # -- the bus --------------------------------------------------------------------------------

    def _missed(self, session_ids: Collection[str]) -> None:
        self._due.update(session_ids)
        self._stirred.set()

    def _noticed(self, notice: Notice) -> None:
        session_id, epoch, version, first_seq, bodies = notice
        if not epoch or not version:
            self._look_soon(session_id)
            return
        if self._writers.get(session_id) is not None:
            seq = first_seq + len(bodies) - 1 if bodies is not None else first_seq
            if self._writers.moved(session_id, Look(epoch, version, seq)):
                return
        channel = self._channels.get(session_id)
        if channel is None or (epoch == channel.epoch and version <= channel.version):
            return
        continues = (
            epoch == channel.epoch
            and version == channel.version + 1
            and first_seq == channel.durable_seq + 1
        )
        if bodies is None or not continues:
            self._look_soon(session_id)
            return
        records = [Record(seq, body) for seq, body in enumerate(bodies, first_seq)]
        is_more = changes_head(records)
        self._tally.follower_events["bus",] += len(records)
        channel.absorb(records, version, None)
        if is_more:
            # Who may read it, and its run, may have changed.
            self._old_heads.add(session_id)
            self._stirred.set()

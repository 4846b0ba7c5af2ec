"""The heartbeat of this process: a thread and a connection of its own.

It moves the counter of this executor's row, judges the others by theirs (`judgement`), takes the
lead when nobody has it, and removes the rows of those that are gone.

A renewal begins a whole period after the last one has ended: those that were missed are never made
up for, since a burst of them would count silence of no time. One that fails is repeated soon, so
that a short outage does not cost a healthy process a whole round.

A process whose event loop does not turn serves nobody, though its threads go on. So the heartbeat
watches the loop, and ends the process when that stands still.
"""

import asyncio
import faulthandler
import os
import time
from collections.abc import Callable, Collection
from secrets import token_hex
from threading import Condition, Thread
from typing import Any, Final, NamedTuple

import psycopg
import structlog

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.storage.base import StoreBusy
from bamboo_gateway.storage.reports import StoreCheck
from bamboo_gateway.storage.sql.postgresql import processes, registration
from bamboo_gateway.storage.sql.postgresql.admission import Admission
from bamboo_gateway.storage.sql.postgresql.connections import Driver, breaking_after, connect
from bamboo_gateway.storage.sql.postgresql.judgement import Judgement
from bamboo_gateway.storage.sql.postgresql.registration import Other
from bamboo_gateway.storage.sql.postgresql.target import Target

log = structlog.get_logger(__name__)

# The leader looks for presences that nobody removed every so many rounds.
_SWEEP_ROUNDS: Final = 60
# How often a process that may not begin yet asks again.
_ASK_SECONDS: Final = 0.5
# What the process ends with when its event loop stands still: EX_SOFTWARE.
_HUNG: Final = 70


class Timing(NamedTuple):
    """How the heartbeat beats.

    Attributes:
        renew_seconds: The time between two renewals.
        retry_seconds: The time after one that failed.
        answer_seconds: How long a renewal may take.
        silent_rounds: After how many rounds without a move an executor is dead. Two, and one for
            each outage in a row that may hit the renewals of one process alone.
        loop_seconds: How long the event loop may stand still.
    """

    renew_seconds: float = 2.5
    retry_seconds: float = 0.5
    answer_seconds: float = 1.5
    silent_rounds: int = 4
    loop_seconds: float = 30.0

    @property
    def dead_seconds(self) -> float:
        """How long a counter is watched before its executor is dead, at most."""
        return (self.silent_rounds + 1) * self.renew_seconds


TIMING: Final = Timing()
"""How it beats unless a test says otherwise."""


def end_process() -> None:
    """End a process whose event loop stands still: nothing else can be done in it."""
    faulthandler.dump_traceback()
    os._exit(_HUNG)


class Heartbeat:
    """This process among those that share the database, from `begin` to `release`.

    Attributes:
        slot: A small number that no other living process has.
        renewals, failures, losses: How often its counter was renewed, could not be renewed, and was
            not there any more.
        deaths: How often another process was found dead.
    """

    def __init__(
        self, target: Target, timing: Timing, on_hung: Callable[[], None] = end_process
    ) -> None:
        """Make it; nothing is connected before `begin`.

        Args:
            target: The database.
            timing: How it beats.
            on_hung: Called on the heartbeat's thread, which has ended its renewals, when the event
                loop has stood still for too long.
        """
        self._target = target
        self._timing = timing
        self._on_hung = on_hung
        self._name = processes.own_name()
        self._judgement = Judgement(timing.silent_rounds)
        # The id that the thread renews; `executor` follows on the event loop.
        self._renewed_id = self._executor = token_hex(16)
        self._has_row = False
        self._admission = Admission(timing.dead_seconds, alone=False)
        self._former: set[str] = set()
        self.slot = 0
        self._leader: str | None = None
        self._renewed_at = 0.0
        self._changed = Condition()
        self._is_stopping = self._is_asked = False
        self._thread = Thread(target=self._run, name="bamboo-heartbeat", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_answers = True
        self._loop_silence = 0.0
        self._rounds = 0
        self._when_renewed: list[Callable[[], None]] = []
        self._when_lost: list[Callable[[], None]] = []
        self.renewals = self.failures = self.losses = self.deaths = 0

    # -- what others ask, on any thread -----------------------------------------------------

    @property
    def executor(self) -> str:
        """The id of this process, as `Replicas.executor`."""
        return self._executor

    @property
    def is_leader(self) -> bool:
        """Whether this process leads, as `Replicas.is_leader`.

        It stops to before another one may have counted all rounds of its silence.
        """
        age = time.monotonic() - self._renewed_at
        rounds_seconds = self._timing.silent_rounds * self._timing.renew_seconds
        return self._leader == self._renewed_id and age < rounds_seconds

    def is_dead(self, executor: str) -> bool:
        """Return whether an executor is dead, as `Replicas.is_dead`."""
        return self.judged(executor) is not None

    def judged(self, executor: str) -> int | None:
        """Return the counter by which an executor was judged dead; None when it is not dead.

        It is -1 for one that has no row, as a former id of this process.
        """
        if executor in {self._executor, self._renewed_id}:
            return None
        return -1 if executor in self._former else self._judgement.judged(executor)

    @property
    def dead(self) -> list[str]:
        """The dead that have a row."""
        return self._judgement.dead

    def note_gone(self, executors: Collection[str]) -> None:
        """Note executors that a statement found in other rows and that have none themselves."""
        self._judgement.note_gone([one for one in executors if one != self._renewed_id])

    def renew_now(self) -> None:
        """Look at once whether this executor's row is gone: a start was refused for it."""
        with self._changed:
            self._is_asked = True
            self._changed.notify()

    def stats(self) -> dict[str, Any]:
        """Return what metrics show of it."""
        return {
            "replicas": self._judgement.known + 1,
            "replicas_dead": len(self._judgement.dead),
            "replica_deaths_total": self.deaths,
            "leader": int(self.is_leader),
            "heartbeat_age_seconds": time.monotonic() - self._renewed_at,
            "heartbeat_failures_total": self.failures,
            "heartbeat_losses_total": self.losses,
        }

    def check(self) -> StoreCheck:
        """Return what diagnostics say of the processes that share the database."""
        dead = self._judgement.dead
        mine = processes.shown(self._name) + (", which leads" if self.is_leader else "")
        seen = f"{self._judgement.known + 1} gateway processes; this is {mine}"
        if not dead:
            return StoreCheck("replicas", "ok", seen)
        action = "nothing, if it was stopped; else look in its log: the others close its runs"
        return StoreCheck("replicas", "warn", f"{seen}; {len(dead)} seem dead", action)

    # -- its course -------------------------------------------------------------------------

    def begin(self, connection: Driver, *, alone: bool = False) -> bool:
        """Write the row of this executor, and begin to renew it; this blocks.

        Args:
            connection: A connection in autocommit.
            alone: Wait until all others are dead, and keep new ones out.

        Returns:
            Whether all processes before have ended in order, as far as can be seen at once.

        Raises:
            StoreBusy: Others live that this one cannot be beside.
        """
        self._admission = Admission(self._timing.dead_seconds, alone=alone)
        while True:
            began_at = time.monotonic()
            begun = registration.begin(
                connection, self._renewed_id, self._name, self._admission.admit, alone=alone
            )
            if begun is not None:
                break
            time.sleep(_ASK_SECONDS)
        self.slot, self._has_row = begun.slot, True
        gone = self._look(begun.others, is_round=True)
        self._lead(connection, begun.leader, begun.others)
        self._renewed_at = began_at
        self._thread.start()
        return not gone

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch an event loop, and call there what is registered."""
        self._loop = loop

    def when_renewed(self, call: Callable[[], None]) -> None:
        """Register a callback, as `Replicas.when_renewed`."""
        self._when_renewed.append(call)

    def when_lost(self, call: Callable[[], None]) -> None:
        """Register a callback, as `Replicas.when_lost`."""
        self._when_lost.append(call)

    def stop(self) -> None:
        """End the renewals; the row stays. Idempotent."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def release(self, connection: Driver) -> None:
        """Remove the row, as the last act: its runs would be closed without it."""
        registration.release(connection, self._renewed_id)

    # -- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        connection: Driver | None = None
        wait = self._timing.renew_seconds
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopping or self._is_asked, wait)
                if self._is_stopping:
                    break
                was_asked, self._is_asked = self._is_asked, False
            if not was_asked and self._loop_stands_still(wait):
                break
            # What is repeated soon, or asked for, counts no silence.
            is_round = not was_asked and wait >= self._timing.renew_seconds
            connection = self._beat(connection, is_round=is_round)
            failed = connection is None
            wait = self._timing.retry_seconds if failed else self._timing.renew_seconds
        if connection is not None:
            connection.close()

    def _beat(self, connection: Driver | None, *, is_round: bool) -> Driver | None:
        """Renew once; return the connection if it can be used again."""
        began_at = time.monotonic()
        try:
            if connection is None:
                connection = connect(self._target, connect_timeout=2)
            with breaking_after(connection, self._timing.answer_seconds):
                self._renew(connection, is_round=is_round)
        except Exception as error:  # without its heartbeat the process would be dead
            if not isinstance(error, psycopg.Error | BambooError):
                log.exception("the heartbeat failed")
            self.failures += 1
            self._judgement.failed()
            if connection is not None:
                connection.close()
            return None
        self._renewed_at = began_at
        self.renewals += 1
        self._call(self._tell_renewed)
        return connection

    def _renew(self, connection: Driver, *, is_round: bool) -> None:
        renewal = registration.renew(connection, self._renewed_id)
        if renewal.is_lost:
            self._begin_anew(connection)
            renewal = registration.renew(connection, self._renewed_id)
        self._look(renewal.others, is_round=is_round)
        self._lead(connection, renewal.leader, renewal.others)
        self._clear(connection, renewal.others)

    def _begin_anew(self, connection: Driver) -> None:
        """Take a new id, and write a row for it: somebody has removed the last one."""
        if not self._has_row:
            # The last attempt failed. Had it been successful after all, there would be a row.
            self._register(connection)
            return
        self._has_row = False
        self._former.add(self._renewed_id)
        self._renewed_id = token_hex(16)
        self._admission = Admission(self._timing.dead_seconds, alone=False)
        self.losses += 1
        log.error("others have taken this process for dead; its runs end, and it begins anew")
        try:
            self._register(connection)
        finally:
            # Behind the new row, if that can be; else at once too, for the runs have to stop.
            self._call(self._tell_lost)

    def _register(self, connection: Driver) -> None:
        try:
            begun = registration.begin(
                connection, self._renewed_id, self._name, self._admission.admit
            )
        except StoreBusy:
            self._admission = Admission(self._timing.dead_seconds, alone=False)
            raise
        if begun is None:
            raise Unavailable("It is not known yet whether this process may begin anew.")
        self.slot, self._has_row = begun.slot, True

    def _look(self, others: list[Other], *, is_round: bool) -> list[str]:
        """Judge the others; return those of this machine whose process has ended."""
        gone = [one.executor for one in others if processes.is_gone(one.name)]
        counters = {one.executor: one.counter for one in others}
        known = set(self._judgement.dead)
        self._judgement.renewed(counters, gone, is_round=is_round)
        for one in others:
            if one.executor not in known and self._judgement.is_dead(one.executor):
                self.deaths += 1
                log.warning("another process is dead", executor=processes.shown(one.name))
        return gone

    def _lead(self, connection: Driver, leader: str | None, others: list[Other]) -> None:
        """Take the lead from a leader that is dead, or when there is none."""
        self._leader = leader
        if leader == self._renewed_id:
            return
        has_row = any(one.executor == leader for one in others)
        counter = self._judgement.judged(leader) if leader is not None and has_row else -1
        if counter is not None and registration.lead(connection, self._renewed_id, leader, counter):
            self._leader = self._renewed_id
            log.info("this process does what one of all has to do")

    def _clear(self, connection: Driver, others: list[Other]) -> None:
        """Remove what the dead have left, as the leader."""
        self._rounds += 1
        if not self.is_leader:
            return
        for one in others:
            # By the counter, too: a clock that steps makes every row an old one.
            is_over = one.is_old and self._judgement.is_dead(one.executor)
            if is_over or processes.is_gone(one.name):
                registration.remove(connection, one.executor, one.counter)
        if self._rounds % _SWEEP_ROUNDS == 0:
            registration.sweep(connection)

    # -- the event loop ---------------------------------------------------------------------

    def _loop_stands_still(self, waited: float) -> bool:
        """Ask the loop for a sign of life; return whether it has given none for too long.

        What counts is what this thread has waited meanwhile, and no clock: a process that was
        stopped as a whole is not to blame.
        """
        if self._loop is None:
            return False
        if not self._loop_answers:
            self._loop_silence += waited
            if self._loop_silence < self._timing.loop_seconds:
                return False
            log.critical("the event loop stands still; this process has to end")
            self._on_hung()
            return True
        self._loop_silence, self._loop_answers = 0.0, False
        self._call(self._answer)
        return False

    def _answer(self) -> None:
        self._loop_answers = True

    def _tell_renewed(self) -> None:
        for call in self._when_renewed:
            call()

    def _tell_lost(self) -> None:
        self._executor = self._renewed_id
        for call in self._when_lost:
            call()

    def _call(self, call: Callable[[], None]) -> None:
        """Call something on the event loop; without one, here."""
        if self._loop is None:
            call()
            return
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:
            # The loop is closed, so nobody is served any more.
            with self._changed:
                self._is_stopping = True

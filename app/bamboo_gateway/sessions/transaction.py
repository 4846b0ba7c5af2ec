"""Transactions: the one way in which a command changes a session.

A command goes through these steps, in this order:

1. *Look up*: the registry finds the session, or begins a new one.
2. *Access*: the registry asks `access` whether the caller may do this with it.
3. *Replayed key*: a repeat with the same idempotency key gets the first answer, and ends here.
4. *State*: an expired, closed or archived session refuses what it does not accept.
5. *Prepare*: the command reads what its decision needs and memory does not have. This may wait.
6. *Decide*: a pure function of the session's head in memory returns a `Decision`.
7. *Commit*: the events become durable together with the answer that the key keeps. Streamed lines
   go on while a commit is in flight (`Transactions.hand_over`).
8. *Effects*: what follows the decision is run from here, and never by `decide`.

A decision that was made on a head which is undone (its commit failed) is made again from step 1.

The gateway decides some things itself: that a queued run begins, or how a cancelled, silent or
interrupted run ends. Nobody sends a key, and the session is in memory. So these come here at step 7
(`Transactions.commit`). Two kinds of writes do not pass through it:

- `RunExecutor` writes the events of its run by `SessionWriter.decide`. It is the run's only
  producer, and must not wait for the commit of each event; and it tries the end of a run again
  until it is stored.
- Merges, forks and imports write a whole history aside, and the store publishes it with one record.
  They take steps 1 to 3 by `Transactions.unless_answered`.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar, cast

from typing_extensions import override

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import BambooError, Conflict, NotFound
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.observability.tracing import span
from bamboo_gateway.sessions.access import Need, check_made, unknown_session
from bamboo_gateway.sessions.commands import AnswerT, Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.idempotency import (
    KeptAnswer,
    KeptNote,
    RequestKey,
    check_same_body,
    read_answer,
    request_key,
)
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.streaming.session_writer import (
    HeadMoved,
    LookAgain,
    SessionWriter,
    Vanished,
    Waiter,
    Wish,
)

Accepts = Literal["open", "closed", "expired", "any"]
"""The sessions that a command accepts: writable ones (`open`), also closed ones (`closed`), also
closed and expired ones (`expired`), or also closed and archived ones, but none expired (`any`)."""

OutcomeT = TypeVar("OutcomeT", bound=Outcome | None)


class Effect:
    """An action that follows a decision. `decide` returns effects, and the transaction runs them.

    They run on the event loop, whether or not the caller still waits, and must not raise.
    """

    __slots__ = ()

    def decided(self) -> None:
        """Run in the same step as the decision, which the head in memory shows from then on."""

    def committed(self) -> None:
        """Run once the decision is durable, before any client sees it."""

    def undone(self) -> None:
        """Run when the decision was not stored."""


@dataclass(frozen=True, slots=True)
class SlotFreed(Effect):
    """Let whatever waits for the session's slot go on, and look at its timers."""

    registry: SessionRegistry
    writer: SessionWriter

    @override
    def committed(self) -> None:
        self.registry.slot_free(self.writer)


@dataclass(frozen=True, slots=True)
class Decision(Generic[AnswerT]):
    """The result of a command's `decide`.

    Attributes:
        drafts: The events to store; none when nothing changes.
        answer: The answer to the caller, once the events are durable.
        effects: The actions that follow.
        reserve: Whether the commit may use the space that the store keeps back for endings.
        wish: How the active run, which another process executes, is to end.
        closes: The dead process whose run the drafts end.
    """

    drafts: Sequence[Draft]
    answer: AnswerT
    effects: tuple[Effect, ...] = ()
    reserve: bool = False
    wish: Wish | None = None
    closes: str | None = None


Decide = Callable[[SessionWriter], Decision[AnswerT]]
"""Pure: it reads the session's head in memory, and changes nothing.

With one exception. The decision about posted events (`ingest`) feeds each event to the unfinished
messages of its run (`SessionWriter.external`), because what an event becomes depends on the events
before it, and a copy of those messages for each post could cost megabytes. The log stays the truth:
when the decision is refused, or its commit fails, the unfinished messages are dropped, and the next
post makes them again from the log.
"""

Prepare = Callable[[SessionWriter], Awaitable[None]]
"""Reads what a decision needs. On return the session is ready, with no await since then."""


class Transactions:
    """Runs commands.

    Attributes:
        registry: Where commands that change more than one session look the others up.
        before_deletion: Awaited before the log of a session is deleted; it raises nothing.
    """

    def __init__(self, context: Context, registry: SessionRegistry) -> None:
        self.registry = registry
        self.before_deletion: Callable[[str], Awaitable[None]] = _nothing
        self._context = context
        self._store = context.store
        self._clock = context.clock
        self._quotas = context.quotas.stored

    async def run(
        self,
        caller: Caller,
        session_id: str,
        decide: Decide[AnswerT],
        need: Need = "own",
        *,
        create: bool = False,
        accepts: Accepts = "open",
        prepare: Prepare | None = None,
        idem: Idempotency | None = None,
    ) -> Outcome[AnswerT]:
        """Make a decision durable and return its answer, once for each idempotency key.

        Args:
            caller: Who calls.
            session_id: The session that it changes.
            decide: Makes the decision.
            need: What the command needs of the session.
            create: Begin a session where there is none.
            accepts: Which states of a session the command is for.
            prepare: Awaited right before `decide`.
            idem: The request's idempotency key.

        Raises:
            BambooError: What `decide` refused, or why the decision could not be stored.
        """

        async def command(writer: SessionWriter, key: RequestKey | None) -> Outcome[AnswerT]:
            if writer.head.seq and need != "make":
                self._check_accepted(writer.head, accepts)
                if accepts == "open" and self._quotas.limits_bytes:
                    await self._quotas.check_bytes(writer.head.user_id)
                    await writer.ready()
                    if not self._is_first(writer, key):
                        raise LookAgain
                    self._check_accepted(writer.head, accepts)
            if prepare is not None:
                try:
                    await prepare(writer)
                except BambooError:
                    await self._look_for_answer(writer, key)
                    raise
                if not self._is_first(writer, key):
                    raise LookAgain
            try:
                decision = decide(writer)
            except BambooError as refusal:
                await self._look_for_answer(writer, key)
                await _confirm(writer, refusal)
                raise LookAgain from None
            return await self._make_durable(caller, writer, decision, key)

        return await self.unless_answered(caller, session_id, idem, command, need, create=create)

    async def _look_for_answer(self, writer: SessionWriter, key: RequestKey | None) -> None:
        """Look again whether another process has answered the key, before a refusal is believed.

        What a command reads may be newer than the head that had no answer: it may see what the
        same request has done elsewhere.

        Raises:
            LookAgain: Another process has changed the session since.
        """
        if key is not None and self._store.replicas is not None and not writer.is_unborn:
            await self.registry.confirm(writer)
            if not self._is_first(writer, key):
                raise LookAgain

    def _check_accepted(self, head: SessionHead, accepts: Accepts) -> None:
        states = self._context.states
        if accepts == "any":
            states.check_not_expired(head)
        else:
            states.check_writable(
                head, closed_too=accepts != "open", expired_too=accepts == "expired"
            )

    async def _make_durable(
        self,
        caller: Caller,
        writer: SessionWriter,
        decision: Decision[AnswerT],
        key: RequestKey | None,
    ) -> Outcome[AnswerT]:
        if writer.head.seq == 0 and decision.drafts:
            check_made(caller, decision.drafts[0].fields.get("user_id"))
        # The log of an archived session takes nothing, not even a note.
        is_archived = writer.head.logged_state == "archived"
        is_empty = not decision.drafts and decision.wish is None
        if is_empty and (key is None or is_archived):
            await writer.settled()
        else:
            await self.commit(writer, decision, key)
        return Outcome(decision.answer)

    async def commit(
        self, writer: SessionWriter, decision: Decision, key: RequestKey | None = None
    ) -> None:
        """Store a decision together with its answer, and run its effects.

        Call it only when the session is ready, without an await between.

        Args:
            writer: The session's writer.
            decision: The decision.
            key: The idempotency key that the answer is kept for.

        Raises:
            HeadMoved: Another process was faster. Decide again.
            BambooError: Nothing of it is stored; the key is unused again.
        """
        note, waiters = self._begin(writer, decision, key)
        with span("commit", session_id=writer.id, events=len(decision.drafts)):
            await writer.commit(
                decision.drafts,
                note=note,
                waiters=waiters,
                reserve=decision.reserve,
                wish=decision.wish,
                closes=decision.closes,
            )

    def hand_over(
        self,
        writer: SessionWriter,
        decision: Decision,
        key: RequestKey | None,
        done: Waiter,
        *,
        lines: int,
        chain: str,
    ) -> None:
        """Hand a decision of a streamed request to the store, as `commit`, and do not wait for it.

        Args:
            writer: The session's writer.
            decision: The decision.
            key: The idempotency key that the answer is kept for.
            done: Called with the outcome, after the effects were run. Those of several decisions
                are called in the decisions' order. What was decided after a commit that failed
                fails with it.
            lines: How many lines of the request are stored with it.
            chain: A chained digest of those lines.

        Raises:
            BambooError: Nothing was decided; `done` was called.
        """
        note, waiters = self._begin(writer, decision, key, lines, chain)
        waiters.append(done)
        writer.decide(decision.drafts, note=note, waiters=waiters, reserve=decision.reserve)

    def _begin(
        self,
        writer: SessionWriter,
        decision: Decision,
        key: RequestKey | None,
        lines: int = 0,
        chain: str = "",
    ) -> tuple[KeptNote | None, list[Waiter]]:
        """Run the effects of having decided. Return what to store for the key, and the waiters."""
        waiters = [_waiter_of(effect) for effect in decision.effects]
        note = None
        if key is not None:
            note = key.note(decision.answer, self._clock.now_ms(), lines, chain)
            waiters.append(_unless_stored(writer.keys.put(note)))
            self.registry.bound_keys()
        for effect in decision.effects:
            effect.decided()
        return note, waiters

    # -- idempotency keys -------------------------------------------------------------------

    async def unless_answered(
        self,
        caller: Caller,
        session_id: str,
        idem: Idempotency | None,
        work: Callable[[SessionWriter, RequestKey | None], Awaitable[OutcomeT]],
        need: Need = "own",
        *,
        create: bool = False,
    ) -> OutcomeT:
        """Return the first answer to a key, or what `work` returns when there is none.

        These are steps 1 to 3, for `run` and for each command that `run` cannot carry out. Such a
        command has to keep its answer for the key that `work` is called with (`RequestKey.note`).

        Raises:
            BambooError: As `SessionRegistry.within` and `first_answer`, and what `work` raises.
        """
        key = request_key(caller, idem)

        async def look(writer: SessionWriter) -> OutcomeT:
            if kept := await self.first_answer(writer, key):
                # The same command made this answer, which is read from the log.
                return cast("OutcomeT", Outcome(kept.answer, replayed=True))
            return await work(writer, key)

        return await self.registry.within(caller, session_id, look, need, create=create)

    async def first_answer(
        self, writer: SessionWriter, key: RequestKey | None
    ) -> KeptAnswer | None:
        """Return the first answer to a key; wait for one that is not durable yet.

        Afterwards a decision can be made at once, without another await.

        Raises:
            IdempotencyKeyReused: The key was used for another body.
            NotFound: The key was used in a session of that id that was deleted.
            StorageFailed: There is an answer, and it cannot be read.
        """
        while key is not None:
            if not writer.keys.is_loaded:
                if writer.is_unborn:
                    await self._begin_keys(writer, key)
                else:
                    await writer.keys.load(self._store, writer.id, writer.epoch)
                    self.registry.bound_keys()
                    await writer.ready()
                continue
            known = writer.keys.get(key.digest, self._clock.now_ms())
            if known is None:
                return None
            check_same_body(known, key)
            try:
                await writer.settled()
            except BambooError:
                await writer.ready()
                continue
            return await read_answer(self._store, writer.id, writer.epoch, key.digest)
        return None

    async def _begin_keys(self, writer: SessionWriter, key: RequestKey) -> None:
        """Begin without keys in a session that is being created."""
        if await self._store.is_spent(writer.id, key.digest):
            raise _deleted_since(writer.id)
        await writer.ready()
        # Another call may have begun them meanwhile, and put its key.
        if not writer.keys.is_loaded:
            writer.keys.start_empty()

    def _is_first(self, writer: SessionWriter, key: RequestKey | None) -> bool:
        """Return whether a key still has no answer, after something was waited for."""
        if key is None:
            return True
        return writer.keys.is_loaded and writer.keys.get(key.digest, self._clock.now_ms()) is None

    async def replay(
        self, caller: Caller, session_id: str, idem: Idempotency | None, need: Need = "own"
    ) -> Outcome | None:
        """Return the first answer to a key, if there is one."""

        async def nothing(_writer: SessionWriter, _key: RequestKey | None) -> Outcome | None:
            return None

        if idem is None:
            return None
        return await self.unless_answered(caller, session_id, idem, nothing, need)

    async def once(
        self,
        caller: Caller,
        session_id: str,
        idem: Idempotency | None,
        work: Callable[[], Awaitable[AnswerT]],
    ) -> Outcome[AnswerT]:
        """Do work that is no decision, and keep its answer for the key afterwards.

        After a crash in between, a repeat does the work again: so it is for work that may be done
        twice.
        """
        if kept := await self.replay(caller, session_id, idem):
            return kept
        answer = await work()
        if idem is not None:
            # The work is done, whether or not there is room to keep its answer.
            with suppress(BambooError):
                return await self.run(
                    caller, session_id, lambda _: Decision([], answer), accepts="any", idem=idem
                )
        return Outcome(answer)

    # -- deleting ---------------------------------------------------------------------------

    async def delete(
        self,
        caller: Caller,
        session_id: str,
        only_if: Callable[[SessionHead], bool] | None = None,
        *,
        spare_used: bool = False,
    ) -> int | None:
        """Delete a session with everything that belongs to it (R9).

        Args:
            caller: Who deletes it.
            session_id: The session's id.
            only_if: Called with the head at the last moment; it may also raise.
            spare_used: Leave the session alone while another call uses it.

        Returns:
            How many bytes its records took, or None when the session was left alone.

        Raises:
            NotFound: There is no such session.
            StorageFailed: The session is still there, whole.
        """
        # What only holds of this head must hold of what is deleted.
        is_bound = only_if is not None or spare_used
        while True:
            try:
                # Without a place: a full memory or disk must not keep anybody from freeing it.
                async with self.registry.use(caller, session_id, place=False) as writer:
                    if (spare_used and writer.users > 1) or (only_if and not only_if(writer.head)):
                        return None
                    async with self.registry.holding(writer):
                        await self.before_deletion(session_id)
                        freed = await self._delete(writer, is_bound=is_bound)
                        writer.deleted()
                    self.registry.channels.forget(session_id)
                    return freed
            except HeadMoved:
                continue  # what was on its way was decided on another head
            except Vanished:
                raise unknown_session(session_id) from None

    async def _delete(self, writer: SessionWriter, *, is_bound: bool) -> int:
        version = writer.head.version if is_bound and self._store.replicas is not None else None
        try:
            return await self._store.delete(writer.id, writer.epoch, version)
        except Conflict as conflict:
            if version is None or conflict.head is None:
                raise
            raise HeadMoved("The session changed underneath; try again.") from conflict


async def _nothing(session_id: str) -> None:
    """Do nothing."""


async def _confirm(writer: SessionWriter, refusal: BambooError) -> None:
    """Raise a refusal once the head that it was decided on is durable (R1).

    Return when that head was undone: the decision has to be made again.
    """
    try:
        await writer.settled()
    except BambooError:
        return
    raise refusal


def _deleted_since(session_id: str) -> NotFound:
    return NotFound(
        f"The session {session_id!r} was deleted after the first request with this "
        "Idempotency-Key. Use a new key to create it again.",
        code="session-not-found",
    )


def _waiter_of(effect: Effect) -> Waiter:
    return lambda error: effect.committed() if error is None else effect.undone()


def _unless_stored(take_back: Callable[[], None]) -> Waiter:
    return lambda error: None if error is None else take_back()

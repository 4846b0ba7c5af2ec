"""From a request to a stream: begins, finds or replays the run that it is about."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from bamboo_gateway.api.limits import OPTIONS_BYTES_MAX
from bamboo_gateway.api.security.rights import check_right
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import (
    Forbidden,
    InvalidInput,
    MessageExists,
    NotFound,
    Refused,
)
from bamboo_gateway.domain.events import REASON_INPUT
from bamboo_gateway.domain.positions import Position, parse_position
from bamboo_gateway.domain.views import RunView
from bamboo_gateway.sessions.commands import Chat, Idempotency, Regenerate, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.runs.client_ids import KnownIds
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.streaming.hub import StreamPlace
from bamboo_gateway.wires.ag_ui import frames
from bamboo_gateway.wires.ag_ui.messages import open_calls
from bamboo_gateway.wires.ag_ui.requests import interrupt_outcome
from bamboo_gateway.wires.ag_ui.run_fold import RunFold
from bamboo_gateway.wires.ag_ui.run_state import Place, RunState
from bamboo_gateway.wires.ag_ui.schemas import RunAgentInput, SentMessage
from bamboo_gateway.wires.ag_ui.snapshots import (
    read_conversation,
    snapshot_around,
    whole_snapshot,
)
from bamboo_gateway.wires.ag_ui.turns import (
    Cancelled,
    Replay,
    Turn,
    answers_of,
    chat_of,
    instructions,
    regenerate_of,
    said,
)
from bamboo_gateway.wires.client_messages import stored_id
from bamboo_gateway.wires.folded_streams import EVENT_LINES, Folded, FoldedStream, FoldMemos

_LOOK_UP: Final = 32
"""How many of a client's messages are looked up at once, from the end: mostly the last is known."""

_TRIES: Final = 3
"""How often a request is read again because another one with the same messages came first."""

_MEMOS: Final[FoldMemos[Place]] = FoldMemos()


@dataclass(frozen=True, slots=True)
class Shown:
    """What a request is answered with.

    Attributes:
        stream: The stream; None: `whole` is the answer.
        whole: All frames.
        run_id: The run, if it is known.
        is_replayed: Whether the request began nothing.
    """

    stream: FoldedStream[Place] | None
    whole: bytes = b""
    run_id: str | None = None
    is_replayed: bool = False


@dataclass(frozen=True, slots=True)
class Threads:
    """The requests of one caller.

    Attributes:
        manager: Runs the commands.
        who: The caller.
        place: The place that the stream takes.
        remote_address: The client's, for the list of connections.
    """

    manager: SessionManager
    who: Caller
    place: StreamPlace
    remote_address: str | None

    # -- a turn -------------------------------------------------------------------------------

    async def run(self, agent: str, given: RunAgentInput, idem: Idempotency | None) -> Shown:
        """Begin the run that the client asks for, or find the one that it has asked for before."""
        for tries_left in reversed(range(_TRIES)):
            known, last, new = await self._known(given)
            turn = await self._turn(agent, given, known, last, new)
            if isinstance(turn, Replay | Cancelled):
                check_right(self.who, "read")  # the answer shows earlier messages
            if isinstance(turn, Replay):
                return await self._replay(given.thread_id, turn.run_id or given.run_id)
            if isinstance(turn, Cancelled):
                await self.manager.cancel_session(self.who, given.thread_id)
                return await self._at_rest(given.thread_id, given.run_id, {"type": "cancelled"})
            try:
                begun = await self._begin(given, turn, idem)
            except (MessageExists, Refused) as error:
                is_race = isinstance(error, MessageExists) or error.code == "run-exists"
                if not is_race or not tries_left:
                    raise
                continue  # the same request came twice at once
            lacks = last is not None and known.tip_id not in (None, stored_id(last.id))
            # Another answer begins where the client's list ends.
            lacks = lacks and not isinstance(turn, Regenerate)
            is_again = isinstance(turn, Inputs) and begun["run_id"] != given.run_id
            lacks = (lacks or is_again) and "read" in self.who.rights
            return await self._begun(given.thread_id, begun, lacks=lacks)
        raise AssertionError  # the last try returns or raises

    async def _known(
        self, given: RunAgentInput
    ) -> tuple[KnownIds, SentMessage | None, list[SentMessage]]:
        """Return what the session has, the last message that it knows, and those behind it."""
        messages = said(given.messages)
        known = KnownIds()
        new: list[SentMessage] = []
        try:
            while True:
                end = len(messages) - len(new)
                batch = messages[max(0, end - _LOOK_UP) : end]
                known = await self.manager.known_ids(
                    self.who,
                    given.thread_id,
                    {stored_id(message.id) for message in batch},
                    given.run_id,
                    "answer" if given.resume else "own",
                )
                for message in reversed(batch):
                    if stored_id(message.id) in known.message_ids:
                        return known, message, new
                    new.insert(0, message)
                if not batch:
                    return known, None, new
        except NotFound:
            # An unknown thread begins with the chat, which refuses one of somebody else.
            return KnownIds(), None, messages

    async def _turn(
        self,
        agent: str,
        given: RunAgentInput,
        known: KnownIds,
        last: SentMessage | None,
        new: list[SentMessage],
    ) -> Turn:
        options = self._options(agent, given)
        if known.has_run:
            return Replay(given.run_id)
        if given.resume:
            return await self._resume(agent, given, options, new)
        if new:
            return chat_of(given, agent, options, new)
        if last is None:
            raise _nothing_said()
        run = await self._run_of(given.thread_id, stored_id(last.id))
        if last.role == "user" and (run is None or run["ended_at"] is not None):
            return regenerate_of(given, agent, options, last)
        return Replay(run["run_id"] if run is not None else None)

    def _options(self, agent: str, given: RunAgentInput) -> dict[str, Any]:
        """Return the options of the run: what the agent allows of what the client has sent."""
        wishes: dict[str, Any] = {}
        if isinstance(given.forwarded_props, dict):
            wishes |= given.forwarded_props
        if given.state:
            wishes["state"] = given.state
        if given.forwarded_props:
            wishes["forwarded_props"] = given.forwarded_props
        if given.context:
            wishes["context"] = [one.model_dump() for one in given.context]
        options = self.manager.options_in(self.who, agent, wishes)
        if text := instructions(given.messages):
            # Never dropped in silence: an agent that does not allow it refuses it by its name.
            options["system"] = text
        if options and (size := len(encode(options))) > OPTIONS_BYTES_MAX:
            raise InvalidInput(
                f"State, context and properties have {size} bytes as JSON; {OPTIONS_BYTES_MAX} are "
                "allowed.",
                errors=[{"loc": ["body", "state"], "msg": "too large"}],
            )
        return options

    async def _resume(
        self,
        agent: str,
        given: RunAgentInput,
        options: dict[str, Any],
        new: list[SentMessage],
    ) -> Turn:
        asked = await self.manager.open_inputs(self.who, given.thread_id)
        kinds = {event["request_id"]: event["kind"] for event in asked}
        answers = answers_of(given, kinds)
        if isinstance(answers, Inputs):
            if new:
                raise InvalidInput(
                    "Answers to interrupts and new messages do not go together. Send the messages "
                    "with the next run.",
                    errors=[{"loc": ["body", "resume"], "msg": "comes with new messages"}],
                )
            if not kinds.keys() <= answers.answers.keys():
                raise _answers_a_part()
            return answers
        if new:
            return chat_of(given, agent, options, new)  # which closes what was asked
        return answers

    async def _run_of(self, thread_id: str, message_id: str) -> RunView | None:
        """Return the latest run that a message is the input of, or else the latest one.

        A message of the user has a run of its own, if it was answered.
        """
        page = await self.manager.runs(self.who, thread_id, limit=_LOOK_UP, descending=True)
        for run in page.runs:
            if message_id in run["message_ids"]:
                return run
        return None

    async def _begin(
        self, given: RunAgentInput, turn: Chat | Regenerate | Inputs, idem: Idempotency | None
    ) -> dict[str, Any]:
        manager, who, thread_id = self.manager, self.who, given.thread_id
        match turn:
            case Chat():
                return dict((await manager.chat(who, turn, idem)).answer)
            case Regenerate():
                return dict((await manager.regenerate(who, thread_id, turn, idem)).answer)
            case Inputs():
                taken = dict((await manager.answer_inputs(who, thread_id, turn, idem)).answer)
                if taken.get("run_id") is None:
                    raise _answers_a_part()  # others have been asked meanwhile
                return taken

    # -- streams ------------------------------------------------------------------------------

    async def _begun(self, thread_id: str, begun: dict[str, Any], *, lacks: bool) -> Shown:
        """Return the stream of a run that this request has begun.

        Args:
            thread_id: The session.
            begun: The command's answer.
            lacks: Whether the client may have all earlier messages, and does not.
        """
        run_id, position = begun["run_id"], parse_position(begun["position"])
        assert position is not None  # the command made it
        state = RunState(run_id, shows_earlier=lacks)
        return await self._stream(thread_id, position, state, is_replayed=False)

    async def _replay(self, thread_id: str, run_id: str | None) -> Shown:
        """Return a run from its begin, with the messages before it."""
        run = await self._named_run(thread_id, run_id)
        if run is None:
            return await self._at_rest(thread_id, run_id or thread_id)
        if run["finish_reason"] == REASON_INPUT and await self._is_settled(thread_id):
            return await self._at_rest(thread_id, run["run_id"])
        position = parse_position(run["position"])
        assert position is not None  # a run always has one
        is_over = run["ended_at"] is not None
        state = RunState(run["run_id"], shows_earlier=True, is_over=is_over)
        return await self._stream(thread_id, position, state, is_replayed=True)

    async def _is_settled(self, thread_id: str) -> bool:
        """Return whether nothing waits for an answer: an interrupt of the log is a past one."""
        return not await self.manager.open_inputs(self.who, thread_id)

    async def _named_run(self, thread_id: str, run_id: str | None) -> RunView | None:
        if run_id is not None:
            try:
                return await self.manager.run(self.who, thread_id, run_id)
            except NotFound as error:
                if error.code != "run-not-found":
                    raise
        page = await self.manager.runs(self.who, thread_id, limit=1, descending=True)
        return page.runs[0] if page.runs else None

    async def connect(self, thread_id: str, run_id: str | None) -> Shown:
        """Return the earlier messages, and the run that executes or waits, from its begin."""
        session = (await self.manager.get_session(self.who, thread_id)).session
        if not session["open_requests"]:
            after = parse_position(session["stream_after"])
            assert after is not None  # a session has one
            state = RunState(None, shows_earlier=True)
            shown = await self._stream(thread_id, after, state, is_replayed=True)
            if shown.stream is not None:
                return shown
        return await self._at_rest(thread_id, run_id or session["active_run_id"])

    async def _stream(
        self,
        thread_id: str,
        after: Position,
        state: RunState,
        *,
        is_replayed: bool,
    ) -> Shown:
        run_id = state.run_id
        wanted = StreamRequest(
            after=after, until_complete=True, run_id=run_id, remote_address=self.remote_address
        )
        inner = await self.manager.connect(self.who, thread_id, wanted, EVENT_LINES, self.place)
        if inner is None:
            return Shown(None, run_id=run_id, is_replayed=is_replayed)
        memo = _MEMOS.of((id(self.manager), thread_id), partial(RunFold, thread_id))
        complete = partial(self._complete, thread_id)
        stream = FoldedStream(inner, memo, Place(state), complete)
        return Shown(stream, run_id=run_id, is_replayed=is_replayed)

    async def _complete(self, thread_id: str, place: Place) -> Folded[Place]:
        """Return the messages that a state waits for, and the frames behind them."""
        parts: list[bytes] = []
        fold = RunFold(thread_id)
        while fold.waits(place):
            state = place.state
            parts.append(await snapshot_around(self.manager, self.who, thread_id, state))
            is_stale = state.is_stale and state.waits_for != "all"
            ready = state._replace(waits_for=None, rest=b"", is_stale=is_stale)
            folded = fold.feed(place._replace(state=ready), state.rest)
            parts.append(folded.frames)
            place = folded.state
        return Folded(b"".join(parts), place)

    async def _at_rest(
        self, thread_id: str, run_id: str | None, end: dict[str, Any] | None = None
    ) -> Shown:
        """Return a thread in which no run executes or waits: its messages, and what it waits for.

        The frames are those of a run that has nothing more to say; `end` is its outcome.
        """
        conversation = await read_conversation(self.manager, self.who, thread_id)
        asked = await self.manager.open_inputs(self.who, thread_id)
        name = run_id or await self._last_run_id(thread_id) or thread_id
        outcome: dict[str, Any] = {"type": "success"}
        if end is not None:
            outcome = end
        elif asked:
            outcome = interrupt_outcome(asked)
        elif calls := open_calls(conversation.shapes):
            outcome["pendingToolCallIds"] = calls
        whole = (
            frames.run_started(thread_id, name)
            + await whole_snapshot(conversation.shapes)
            + frames.run_finished(thread_id, name, outcome)
        )
        return Shown(None, whole, name, is_replayed=True)

    async def _last_run_id(self, thread_id: str) -> str | None:
        try:
            page = await self.manager.runs(self.who, thread_id, limit=1, descending=True)
        except Forbidden:
            return None  # whoever may only read the thread sees no list of its runs
        return page.runs[0]["run_id"] if page.runs else None


def _answers_a_part() -> InvalidInput:
    return InvalidInput(
        "`resume` has to answer all open interrupts of the thread.",
        errors=[{"loc": ["body", "resume"], "msg": "does not answer all"}],
    )


def _nothing_said() -> InvalidInput:
    detail = "`messages` has no message to answer."
    return InvalidInput(
        detail, code="nothing-to-answer", errors=[{"loc": ["body", "messages"], "msg": detail}]
    )

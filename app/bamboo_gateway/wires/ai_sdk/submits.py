"""What a request of `useChat` means: a new turn, an edit, another answer, or results of tools.

Clients of this protocol repeat requests without a key. So a message is sent once, whatever comes
again: its id says whether the session has it, and then the answer is that message's run.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple

from bamboo_gateway.api.security.rights import check_right
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import canonical, decode
from bamboo_gateway.domain.errors import InvalidInput, MessageExists, NotFound, Refused
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.positions import Position, parse_position
from bamboo_gateway.sessions.commands import (
    Chat,
    Idempotency,
    NewMessage,
    NewSession,
    OnBusy,
    Regenerate,
)
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.sessions.turns import InputRun, Turns
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.bodies import (
    ChatRequest,
    UiMessage,
    approvals_of,
    check_count,
    imported,
    instructions_of,
    native_id,
    results_of,
    users_message,
)
from bamboo_gateway.wires.ai_sdk.folding import beside_loop, folded
from bamboo_gateway.wires.ai_sdk.run_state import Begin
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages
from bamboo_gateway.wires.ai_sdk.versions import Version


class Begun(NamedTuple):
    """The run that answers a request.

    Attributes:
        run_id: The run; None: none began, because other requests for input are open.
        position: The position before its first event.
        begin: What the UI message has before it.
    """

    run_id: str | None
    position: Position
    begin: Begin = Begin()


@dataclass(frozen=True, slots=True)
class Submit:
    """One request on its way to a run.

    Attributes:
        manager: Runs the commands.
        caller: Who asks.
        version: The client's version.
        asked: The request.
        idem: The client's idempotency key, if it sends one.
    """

    manager: SessionManager
    caller: Caller
    version: Version
    asked: ChatRequest
    idem: Idempotency | None = None

    async def begin(self) -> Begun:
        """Begin the run that the request asks for, or find the one that it has begun before.

        Raises:
            BambooError: As the commands of the manager.
            InvalidInput: There is nothing to answer, or a message is not allowed.
        """
        asked = self.asked
        history = asked.history()
        options = await self._options(history)
        if asked.trigger == "regenerate-message":
            return await self._regenerate(options)
        last = history[-1]
        meant = self._meant(history)
        if meant is not None and meant.role == "assistant":
            return await self._go_on(meant, options)
        if last.role != "user":
            raise InvalidInput(
                "The last message is not a user's, and `messageId` names no message of the "
                "assistant with results.",
                code="nothing-to-answer",
            )
        if asked.messageId is not None:
            return await self._edit(last, asked.messageId, options)
        return await self._say(history, options)

    def _meant(self, history: list[UiMessage]) -> UiMessage | None:
        """Return the message that `messageId` names; without one a last one of the assistant."""
        if self.asked.messageId is None:
            return history[-1] if history[-1].role == "assistant" else None
        return next((one for one in reversed(history) if one.id == self.asked.messageId), None)

    async def _options(self, history: list[UiMessage]) -> dict[str, Any]:
        """Return the agent's options, with the instructions that the client brings.

        An agent has to allow them by the option `system`, and refuses them by name otherwise.
        """
        brought = [one for one in history if one.role == "system"]
        if brought:
            ids = frozenset(filter(None, (native_id(one.id) for one in brought)))
            known = await self._known(ids)
            brought = [one for one in brought if native_id(one.id) not in known]
        text = instructions_of(brought)
        return self.asked.options if text is None else {**self.asked.options, "system": text}

    async def _known(self, ids: frozenset[str]) -> frozenset[str]:
        try:
            return (await self.manager.known_ids(self.caller, self.asked.id, ids)).message_ids
        except NotFound:
            return frozenset()

    # -- a user's message -----------------------------------------------------------------------

    async def _say(self, history: list[UiMessage], options: dict[str, Any]) -> Begun:
        """Answer the last message. Earlier ones of the user's that are unknown come before it."""
        last = _last_of_user(history)
        check_count(len(last))
        said = [users_message(one) for one in last]
        if len(said) < len(history):
            said = await self._with_history(history, said)
        name = said[-1].id
        try:
            return await self._chat(said, options)
        except MessageExists:
            # Somebody has sent it before; it may be this client.
            if len(said) > 1:
                known = await self._known(frozenset(one.id for one in said if one.id))
                rest = [one for one in said if one.id not in known]
                if rest and rest[-1].id == name:
                    return await self._chat(rest, options)
            if name is None:
                raise
        found = await self.manager.run_of_input(self.caller, self.asked.id, name)
        if found is not None:
            return self._again(found)
        wanted = Regenerate(
            name,
            self.asked.agent,
            options,
            client_tools=self.asked.client_tools(),  # it has no run yet
        )
        return self._started(
            await self.manager.regenerate(self.caller, self.asked.id, wanted, self.idem)
        )

    async def _with_history(
        self, history: list[UiMessage], said: list[NewMessage]
    ) -> list[NewMessage]:
        """Return what is new of the client's messages: all of them in a new session.

        In a session that exists, its log says what the assistant has said.
        """
        try:
            await self.manager.log_end(self.caller, self.asked.id)
        except NotFound:
            return imported(history)
        return said

    async def _chat(
        self,
        messages: list[NewMessage],
        options: dict[str, Any],
        *,
        edit: str | None = None,
        idem: Idempotency | None = None,
        on_busy: OnBusy = "enqueue",
    ) -> Begun:
        command = Chat(
            NewSession(self.asked.id),
            messages,
            self.asked.agent,
            options,
            on_busy=on_busy,
            edit_message_id=edit,
            client_tools=self.asked.client_tools(),
        )
        return self._started(await self.manager.chat(self.caller, command, idem or self.idem))

    def _started(self, outcome: Any) -> Begun:
        turn = outcome.answer
        return Begun(turn["run_id"], _position(turn["position"]))

    def _again(self, found: InputRun) -> Begun:
        """Return a run that the request has not begun.

        Raises:
            Forbidden: The caller may only write.
        """
        check_right(self.caller, "read")
        return Begun(found.run_id, found.position)

    async def _edit(self, message: UiMessage, ui_id: str, options: dict[str, Any]) -> Begun:
        """Put a message in the place of an earlier one. The same one again is no other edit."""
        present = await self._users(ui_id)
        new = users_message(UiMessage(**{**message.model_dump(), "id": ui_id}), is_edit=True)
        if _says_the_same(present, new):
            found = await self.manager.run_of_input(self.caller, self.asked.id, present.id)
            if found is not None:
                return self._again(found)
        said = canonical([present.id, new.content])
        digest = sha256(said).hexdigest()
        idem = self.idem or Idempotency(f"edit-{digest}", "POST /ai-sdk/chat", digest)
        return await self._chat([new], options, edit=present.id, idem=idem, on_busy="interrupt")

    async def _users(self, ui_id: str) -> Message:
        found = await self.manager.users_message(self.caller, self.asked.id, ui_id, parts.ALIAS)
        if found is None:
            raise NotFound(
                f"No message {ui_id!r} of the user's on the current path of this session.",
                code="message-not-found",
            )
        return found

    async def _regenerate(self, options: dict[str, Any]) -> Begun:
        message_id = self.asked.messageId
        if message_id is not None:
            known = await self.manager.users_message(
                self.caller, self.asked.id, message_id, parts.ALIAS
            )
            message_id = known.id if known is not None else native_id(message_id)
        wanted = Regenerate(
            message_id,
            self.asked.agent,
            options,
            on_busy="interrupt",
            client_tools=self.asked.client_tools(),
        )
        return self._started(
            await self.manager.regenerate(self.caller, self.asked.id, wanted, self.idem)
        )

    # -- the assistant's message ----------------------------------------------------------------

    async def _go_on(self, message: UiMessage, options: dict[str, Any]) -> Begun:
        """Take results of tools and answers to approvals from a message of the assistant."""
        turns = await self.manager.turns(self.caller, self.asked.id, limit=1)
        ui = await _folded(turns, self.version)
        given = approvals_of(message)
        if answers := {name: given[name] for name in ui.requests if name in given}:
            return await self._answer(turns, answers)
        waiting = [call_id for call_id in ui.calls if ui.is_waiting(call_id)]
        results = results_of(message, waiting)
        if results and turns.active is None:
            try:
                begun = await self._chat(results, options)
            except Refused as refusal:
                if refusal.code != "no-open-tool-call":
                    raise
                turns = await self.manager.turns(self.caller, self.asked.id, limit=1)
            else:
                return begun._replace(begin=Begin.of(ui))
        return await self._known_results(turns, message)

    async def _answer(self, turns: Turns, answers: dict[str, Any]) -> Begun:
        given = Inputs(answers, client_tools=self.asked.client_tools() or None)
        outcome = await self.manager.answer_inputs(self.caller, self.asked.id, given, self.idem)
        position = _position(outcome.answer["position"])
        begin = Begin.of(await _folded(turns, self.version, position))
        return Begun(outcome.answer.get("run_id"), position, begin)

    async def _known_results(self, turns: Turns, message: UiMessage) -> Begun:
        """Return the last run that got results or answers of this message before."""
        sent = {part["toolCallId"] for part in message.calls()}
        answered = approvals_of(message)
        run_id = await beside_loop(turns.events, partial(_last_run, turns.events, sent, answered))
        if run_id is None:
            raise InvalidInput(
                "The message has no result that a tool call of the session waits for.",
                code="nothing-to-answer",
            )
        found = await self.manager.input_run(self.caller, self.asked.id, run_id)
        begin = Begin.of(await _folded(turns, self.version, found.position))
        return self._again(found)._replace(begin=begin)


def _last_run(
    events: Sequence[bytes], call_ids: Container[str], request_ids: Container[str]
) -> str | None:
    """Return the last run that has got a result of these calls or an answer to these requests."""
    run_id: str | None = None
    for event in map(decode, events):
        if event["type"] == "input_given" and event["request_id"] in request_ids:
            run_id = event.get("run_id", run_id)
        elif event["type"] == "message" and event["message"].get("tool_call_id") in call_ids:
            # A result that an agent has given itself is not an input of its run.
            is_input = event["message"].get("run_id") is None
            run_id = event.get("run_id", run_id) if is_input else run_id
    return run_id


async def _folded(turns: Turns, version: Version, upto: Position | None = None) -> UiMessages:
    work = partial(folded, turns.events, version, upto=upto)
    return await beside_loop(turns.events, work)


def _position(text: str) -> Position:
    position = parse_position(text)
    assert position is not None  # an answer of the gateway
    return position


def _last_of_user(history: list[UiMessage]) -> list[UiMessage]:
    """Return the user's messages behind the last one of the assistant."""
    at = len(history)
    while at and history[at - 1].role != "assistant":
        at -= 1
    return [one for one in history[at:] if one.role == "user"]


def _says_the_same(present: Message, new: NewMessage) -> bool:
    if present.text != Message.text_of(new.content):
        return False
    return _files(present.content) == _files(new.content)


def _files(content: Any) -> int:
    return 0 if isinstance(content, str) else sum(part["type"] != "text" for part in content)

"""Answers to requests for input: the command behind POST /inputs.

All answers of a request are stored in one commit or none. The last one that a round waits for also
starts the next run, in the same commit, before any run that is queued. An answer counts once: the
same one again gets the first one's result, another one is refused.
"""

from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio import to_thread

from bamboo_gateway.domain.answer_schema import problems_of
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.client_tools import ClientTools, check_client_tools
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import canonical, decode, size_left
from bamboo_gateway.domain.errors import BambooError, Gone, InvalidInput, NotFound, Refused
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.answers import InputsTaken
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.runs.client_ids import ClientIds
from bamboo_gateway.sessions.runs.external import ExternalRuns
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.runs.rounds import Round, load_round, next_run
from bamboo_gateway.sessions.runs.scheduler import RunScheduler
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions

_INLINE = 4096
"""An answer of this size, by `size_left`, is checked on the event loop."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Answers to send.

    Attributes:
        answers: Each answer, by the id of its request.
        run_id: The client's own name for the run that gets them, if one starts.
        options: The options of that run; None: those of the run that asked.
        client_tools: The tools that the client runs; None: those of the run that asked.
    """

    answers: dict[str, Any]
    run_id: str | None = None
    options: dict[str, Any] | None = None
    client_tools: ClientTools | None = None


@dataclass(frozen=True, slots=True)
class InputService:
    """Runs the command of answers to requests for input."""

    context: Context
    transactions: Transactions
    maker: Maker
    external: ExternalRuns
    scheduler: RunScheduler

    async def answer(
        self, caller: Caller, session_id: str, given: Inputs, idem: Idempotency | None
    ) -> Outcome[InputsTaken]:
        """Store answers; start the next run when no request is open any more.

        Raises:
            NotFound: The session has, and had, no such request.
            Gone: A request has expired.
            Refused: `already-answered`: with another answer. `input-closed`: nobody waits for the
                answer any more. `run-active`: the run that asks has not ended yet.
            InvalidInput: An answer does not fit its schema, an option is not allowed, or a tool of
                the client's is none.
            LimitReached: Too many runs are executing.
        """
        check_client_tools(given.client_tools or ())
        command = _Command(self, caller, given)
        return await self.transactions.run(
            caller,
            session_id,
            command.decide,
            "answer",
            prepare=command.prepare,
            idem=idem,
        )


@dataclass(slots=True)
class _Command:
    service: InputService
    caller: Caller
    given: Inputs
    round: Round = field(default_factory=Round)
    problems: list[dict[str, Any]] = field(default_factory=list)
    # The last event of each request that is not open.
    past: dict[str, dict[str, Any]] = field(default_factory=dict)
    ids: ClientIds | None = None

    async def prepare(self, writer: SessionWriter) -> None:
        """Read the requests and hold the answers against their schemas."""
        store = self.service.context.store
        self.ids = ClientIds(store, self.service.external.hold, self.given.run_id)
        while True:
            await self._run_ended(writer)
            try:
                await writer.settled()
            except BambooError:
                continue  # it was undone: look at what holds
            await writer.ready()
            head = writer.head
            seen = (head.open_requests, head.settled_requests)
            self.round = await load_round(store, head)
            self.past = await self._past(head)
            await self._check(head)
            await self.ids.prepare(writer)
            await writer.ready()
            now = writer.head
            if seen == (now.open_requests, now.settled_requests):
                return

    async def _run_ended(self, writer: SessionWriter) -> None:
        """Wait for the end of the run that asks: it has nothing else to do than to end."""
        await writer.ready()
        head = writer.head
        if head.active is None or not any(
            one.request_id in self.given.answers for one in head.open_requests
        ):
            return
        ended = anyio.Event()
        forget = writer.on_run_end(head.active.run_id, ended.set)
        try:
            with anyio.move_on_after(self.service.context.settings.cancel_timeout_seconds):
                await ended.wait()
        finally:
            forget()
        await writer.ready()

    async def _past(self, head: SessionHead) -> dict[str, dict[str, Any]]:
        store = self.service.context.store
        still_open = {one.request_id for one in head.open_requests}
        past: dict[str, dict[str, Any]] = {}
        for name in self.given.answers:
            if name not in still_open:
                # An agent may have used the id again: its last request counts.
                found = await store.find(
                    head.id, head.epoch, "input", key=name, limit=1, reverse=True
                )
                if found:
                    past[name] = decode(found[0].body)
        return past

    async def _check(self, head: SessionHead) -> None:
        answers = self.given.answers
        named = [one.request_id for one in head.open_requests if one.request_id in answers]
        if size_left(_INLINE, answers) >= 0:
            self.problems = self._problems(named)
        else:
            self.problems = await to_thread.run_sync(self._problems, named)

    def _problems(self, names: list[str]) -> list[dict[str, Any]]:
        return [
            {**problem, "loc": ["body", "answers", name, *problem["loc"]]}
            for name in names
            for asked in [self.round.asked[name]]
            for problem in problems_of(asked["kind"], asked.get("schema"), self.given.answers[name])
        ]

    def decide(self, writer: SessionWriter) -> Decision[InputsTaken]:
        """Decide whether the answers count, and whether a run begins with them."""
        head, service = writer.head, self.service
        now_ms = service.context.clock.now_ms()
        waiting = {one.request_id: one for one in head.open_requests}
        for name in self.given.answers:
            if name not in waiting:
                self._check_past(name)
            elif (at := waiting[name].expires_at) is not None and at <= now_ms:
                raise _expired(name)
        if self.problems:
            first = self.problems[0]
            place = ".".join(map(str, first["loc"][2:]))
            raise InvalidInput(
                f"The answer {place} does not fit: {first['msg']}.",
                code="invalid-answer",
                errors=self.problems,
            )
        new = [name for name in waiting if name in self.given.answers]
        if not new:
            return Decision([], self._first_answer(writer))
        if head.active is not None:
            raise Refused("The run that asks has not ended yet; try again.", code="run-active")
        return self._accept(writer, new, now_ms)

    def _check_past(self, name: str) -> None:
        event = self.past.get(name)
        if event is None:
            raise NotFound(f"No request for input {name!r}.", code="request-not-found")
        if event["type"] == "input_given":
            if canonical(event["answer"]) != canonical(self.given.answers[name]):
                raise Refused(
                    f"The request {name!r} has another answer already.",
                    code="already-answered",
                    extra={"request_id": name},
                )
        elif event.get("reason") == "expired":
            raise _expired(name)
        else:
            raise Refused(
                f"Nobody waits for an answer to {name!r} any more.",
                code="input-closed",
                extra={"request_id": name, "reason": event.get("reason", "cancelled")},
            )

    def _first_answer(self, writer: SessionWriter) -> InputsTaken:
        """Return what was answered when the last of these answers was taken."""
        last = max((self.past[name] for name in self.given.answers), key=lambda one: one["seq"])
        taken: InputsTaken = {"session_id": writer.id, "position": last["position"]}
        if "run_id" in last:
            taken["run_id"] = last["run_id"]
        return taken

    def _accept(self, writer: SessionWriter, new: list[str], now_ms: int) -> Decision[InputsTaken]:
        head, service = writer.head, self.service
        position = str(head.position)
        taken: InputsTaken = {"session_id": writer.id, "position": position}
        is_last = len(new) == len(head.open_requests)
        run_id = None
        if is_last:
            run_id = taken["run_id"] = self.given.run_id or service.maker.run_id()
        given = {
            name: _given(name, self.given.answers[name], self.caller, position, run_id)
            for name in new
        }
        drafts = [Draft("input_given", fields) for fields in given.values()]
        if run_id is None:
            return Decision(drafts, taken)
        if self.ids is not None:
            self.ids.check(writer)
        service.context.drain.check()
        service.context.quotas.check_run(head.user_id)
        options = self.round.options if self.given.options is None else self.given.options
        agent = head.open_requests[0].agent
        if agent in service.scheduler.agents:
            service.scheduler.agents[agent].check_options(options)
        time = format_ms(now_ms)
        answers = self.round.answers({name: {**one, "time": time} for name, one in given.items()})
        tools = self.given.client_tools
        begun, effects = next_run(
            service.scheduler,
            service.maker,
            writer,
            run_id,
            answers,
            options,
            position,
            self.round.client_tools if tools is None else tools,
        )
        return Decision([*drafts, *begun], taken, effects)


def _given(
    name: str, answer: Any, caller: Caller, position: str, run_id: str | None
) -> dict[str, Any]:
    fields: dict[str, Any] = {"run_id": run_id} if run_id is not None else {}
    return {
        **fields,
        "request_id": name,
        "answer": answer,
        "user_id": caller.user_id,
        "position": position,
    }


def _expired(name: str) -> Gone:
    return Gone(f"The request for input {name!r} has expired.", code="input-expired")

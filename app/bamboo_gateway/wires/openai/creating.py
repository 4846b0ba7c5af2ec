"""Begin a response: the command that a request is, and the run that an SDK's retry meant.

The SDKs send a request again after a lost connection or a 5xx, without an idempotency key. They
count the tries (`x-stainless-retry-count`). A repeat gets the run that the first try has begun: it
is found by the digest of the request, which the log keeps beside the input. So it is found after a
restart too, and two equal requests of a user begin two runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import canonical
from bamboo_gateway.domain.errors import InvalidInput, NotFound, Refused
from bamboo_gateway.sessions.commands import Chat, Idempotency, NewSession, SessionQuery
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.sessions.runs.inputs import Inputs
from bamboo_gateway.wires.openai.errors import unsupported, wrong
from bamboo_gateway.wires.openai.ids import run_of, session_of
from bamboo_gateway.wires.openai.inputs import Input, finished, read_input
from bamboo_gateway.wires.openai.parameters import Parameters, may_instruct, read_parameters
from bamboo_gateway.wires.openai.responses import ASKED, asked_of

REQUEST: Final = "openai_request"
"""The member of a new session's metadata with the digest of the request that has made it."""

RETRY_SECONDS_MAX: Final = 3600
"""How long after its first try a request is known again. The SDKs give up after 10 minutes each."""

_RUNS_LOOKED_AT: Final = 10
"""How many of a session's latest runs may be the one that a repeat means."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The run of a response, and the position before its first event."""

    session_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Creation:
    """A request for a response.

    Attributes:
        body: The request.
        key: Its idempotency key.
        tries: How often an SDK has sent it before; None: the client does not say.
        now_ms: The time.
    """

    body: Mapping[str, Any]
    key: str | None = None
    tries: int | None = None
    now_ms: int = 0

    @property
    def digest(self) -> str:
        """A digest of the request."""
        return sha256(canonical(self.body)).hexdigest()

    @property
    def idem(self) -> Idempotency | None:
        """The idempotency of the request; None without a key."""
        return Idempotency(self.key, "POST /openai/v1/responses", self.digest) if self.key else None

    async def begin(self, manager: SessionManager, who: Caller) -> Begun:
        """Begin the run, or find the one that an earlier try has begun.

        Raises:
            InvalidInput: A parameter is wrong or not there, or names something that is not there.
        """
        body = self.body
        for name in ("stream", "store", "background"):
            if not isinstance(body.get(name), bool | None):
                raise wrong(name, "is not a boolean.")
        if body.get("background") is True and body.get("store") is False:
            raise wrong("background", "needs `store`: nobody could retrieve or cancel it.")
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise wrong("model", "is missing: the name of an agent.")
        views = manager.agents(who)
        agent = next((one for one in views if one["name"] == model), None)
        parameters = read_parameters(body, agent)
        given = read_input(body.get("input"))
        if given.instructed_by and agent is not None and not may_instruct(agent):
            raise unsupported(
                given.instructed_by,
                f"has instructions, which clients may not give the agent {agent['name']!r} "
                "(allow=system).",
            )
        before = await self._before(manager, who)
        session_id = before.run["session_id"] if before is not None else self._conversation()
        if self.tries and self.key is None:
            known = await self._known(manager, who, session_id)
            if known is not None:
                return known
        if given.approvals:
            return await self._answer(manager, who, given, session_id)
        # A repeat of a key finds its own run behind the previous one.
        if before is not None and before.run["ended_at"] is None and self.key is None:
            await _check_goes_on(manager, who, before)
        chat = self._chat(given, parameters, session_id, before)
        outcome = await manager.chat(who, chat, self.idem)
        return Begun(outcome.answer["session_id"], outcome.answer["run_id"])

    def _conversation(self) -> str | None:
        """Return the session that `conversation` names; None without one."""
        given = self.body.get("conversation")
        if given is None:
            return None
        name = given.get("id") if isinstance(given, dict) else given
        session_id = session_of(name) if isinstance(name, str) else None
        if session_id is None:
            raise InvalidInput(
                "There is no such conversation.",
                code="session-not-found",
                errors=[{"loc": ["body", "conversation"], "msg": "there is none"}],
            )
        return session_id

    async def _before(self, manager: SessionManager, who: Caller) -> RunRecord | None:
        """Return the run that `previous_response_id` names; None without one."""
        given = self.body.get("previous_response_id")
        if given is None:
            return None
        if self.body.get("conversation") is not None:
            raise wrong("previous_response_id", "cannot be given together with `conversation`.")
        named = run_of(given) if isinstance(given, str) else None
        try:
            record = await manager.run_record(who, *named) if named is not None else None
        except NotFound:
            record = None
        if record is None or not is_kept(record):
            raise wrong("previous_response_id", "names no response that there is.")
        return record

    def _chat(
        self,
        given: Input,
        parameters: Parameters,
        session_id: str | None,
        before: RunRecord | None,
    ) -> Chat:
        messages = finished(given)
        if not messages:
            raise wrong("input", "has no message.")
        asked = parameters.asked | {
            name: value
            for name in ("previous_response_id", "store", "background")
            if (value := self.body.get(name)) is not None
        }
        is_counted = self.tries is not None and self.key is None
        if is_counted:
            asked["request"] = self.digest
        last = messages[-1]
        messages[-1] = replace(last, metadata={ASKED: asked})
        new = {REQUEST: self.digest} if is_counted and session_id is None else {}
        ended = before is not None and before.run["ended_at"] is not None
        return Chat(
            NewSession(session_id, metadata=new),
            messages,
            self.body.get("model"),
            parameters.options,
            after_message_id=before.last_message_id if before is not None and ended else None,
            client_tools=parameters.tools,
        )

    async def _answer(
        self,
        manager: SessionManager,
        who: Caller,
        given: Input,
        session_id: str | None,
    ) -> Begun:
        if session_id is None or given.messages:
            raise wrong(
                "input",
                "answers approvals: that needs a `previous_response_id` or `conversation`, and "
                "nothing else in the input.",
            )
        answers: dict[str, Any] = dict(given.approvals)
        outcome = await manager.answer_inputs(who, session_id, Inputs(answers), self.idem)
        run_id = outcome.answer.get("run_id")
        if run_id is None:
            raise Refused(
                "The answers are stored. The response goes on when all approvals are answered.",
                code="input-required",
            )
        return Begun(session_id, run_id)

    async def _known(
        self, manager: SessionManager, who: Caller, session_id: str | None
    ) -> Begun | None:
        """Return the run that an earlier try of this request has begun."""
        if session_id is None:
            query = SessionQuery(
                metadata=((REQUEST, self.digest),), sort_by="created_at", limit=1, count=False
            )
            made = await manager.list_sessions(who, query)
            if not made.sessions:
                return None
            session_id = made.sessions[0]["id"]
        page = await manager.runs(who, session_id, limit=_RUNS_LOOKED_AT, descending=True)
        for run in page.runs:
            if self.now_ms - parse_ms(run["created_at"]) > RETRY_SECONDS_MAX * 1000:
                return None
            record = await manager.run_record(who, session_id, run["run_id"])
            if asked_of(record).get("request") == self.digest:
                return Begun(session_id, run["run_id"])
        return None


async def _check_goes_on(manager: SessionManager, who: Caller, before: RunRecord) -> None:
    """Check that what is queued now begins where a response ends that has not ended.

    Raises:
        Refused: Another run waits behind that response, and would come in between.
    """
    session_id, run_id = before.run["session_id"], before.run["run_id"]
    known = await manager.known_ids(who, session_id, set(), run_id)
    if run_id in known.under_way[:-1]:
        raise Refused(
            "The previous response has not ended, and another one waits behind it already. Send "
            "the request again when it has ended.",
            code="run-active",
        )


def is_kept(record: RunRecord) -> bool:
    """Return whether a response can be retrieved: nobody has deleted it, or wanted it not kept."""
    return not record.is_hidden and asked_of(record).get("store") is not False

"""`http://…`, `https://…`: an agent in any language, as an HTTP service.

Each turn is one `POST` to the URL, with the JSON body

    {"version": 1, "run_id": "run_…", "session": Session, "messages": [Message, …], "options": {…}}

in the shapes of the gateway's API. The conversation ends with the input to answer. A turn that goes
on after people were asked (`input_required`) has no input, and the answers instead:

    "answers": {"req_…": {"request": {"request_id": "req_…", "kind": "approval", "prompt": "…", …},
                          "status": "answered", "answer": {"approved": true}, "user_id": "…",
                          "given_at": "…"}}

Tools that the client brought (`base.Turn`) are in `"client_tools": [{"name", "description"?,
"parameters"}, …]`, if there are any.

The service answers with status 200 and one of

* `text/event-stream`: the `data` of each event is one JSON event (`{"type": "token", "content":
  "Hel"}` …); `[DONE]` is ignored;
* `application/x-ndjson`: one JSON event a line;
* `application/json`: one message (`{"content": "…"}`, perhaps with `role`, `tool_calls`, `usage`,
  `metadata`), one event, or a list of events.

The turn ends with a terminal event (`complete`, `error`, `cancelled`) or with the end of the body.
Without length and chunks, the end of a body looks like a broken connection; such an answer needs
the terminal event. The gateway closes the request when the run is cancelled.

`Idempotency-Key` is the id of the run. A request is retried only when connecting failed, or after
429, 502, 503 and 504, with which a service says that it has not begun: a second request would run
the agent's tools again. For the same reason connections are not reused: then a broken connection
was never a stale one.

The query may have `secret_env`, `connect_timeout_seconds` (10), `first_byte_timeout_seconds` (120),
`idle_timeout_seconds` (120; any byte resets it, so a comment or an empty line is enough),
`retries_max` (3), `coalesce` (true; see `base.Agent`) and `allow`. The gateway removes these; the
rest of the query goes to the service.

`allow` names the `options` that a chat may set, as in `allow=language,depth:1..3` (see `allowed`).
The default is none, because options come from anybody who may chat.

With `secret_env`, the name of the variable that holds a shared secret, each request is signed:

    Bamboo-Timestamp: <seconds since 1970>
    Bamboo-Signature: v1=<hex of HMAC-SHA256(secret, timestamp + "." + body)>

The service should compare in constant time, and refuse timestamps that are minutes off.
"""

import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
from anyio import to_thread
from typing_extensions import override

from bamboo_gateway.agents.allowed import NO_OPTIONS
from bamboo_gateway.agents.base import Agent, AgentError, SessionAnswer, Turn
from bamboo_gateway.agents.normalization import normalized
from bamboo_gateway.agents.options import (
    AgentAddress,
    AgentQuery,
    VariableName,
    read_allowed,
    read_service,
)
from bamboo_gateway.agents.sse_reader import LineReader, LineTooLongError, SseReader
from bamboo_gateway.agents.upstream import NOT_BEGUN_STATUSES, Answer, Upstream, Waits
from bamboo_gateway.domain.clock import Clock, SystemClock
from bamboo_gateway.domain.codec import decode, encode_with
from bamboo_gateway.domain.events import AgentEvent, MessageSaid
from bamboo_gateway.observability.tracing import trace_headers
from bamboo_gateway.settings import Settings

_LINE_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_DONE = b"[DONE]"


class HttpQuery(Waits, AgentQuery):
    """The members of the query that the gateway reads."""

    secret_env: VariableName | None = None


class HttpAgent(Agent):
    """An agent that is an HTTP service.

    Args:
        url: Where turns are posted.
        query: The gateway's own members of the URL's query.
        secret: Signs the requests, if there is one.
        settings: Bounds of events and bodies.
        session_answer: Makes the API's Session, with its `stream_url`, of a turn's session.
        clock: Dates the signatures.
        sleep: Waits between tries; tests watch it.
    """

    def __init__(
        self,
        url: str,
        query: HttpQuery,
        *,
        secret: str | None,
        settings: Settings,
        session_answer: SessionAnswer,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.kind = url.partition(":")[0]
        self.coalesce = query.coalesce
        self.description = query.description
        self._secret = secret.encode() if secret else None
        self._session_answer = session_answer
        self._event_bytes_max = settings.max_event_bytes
        self._body_bytes_max = settings.max_body_bytes
        self._clock = clock or SystemClock()
        self._upstream = Upstream(
            url,
            what="agent service",
            waits=query,
            retried_statuses=NOT_BEGUN_STATUSES,
            keeps_alive=False,
            secrets=(secret,) if secret else (),
            sleep=sleep,
        )

    @staticmethod
    def from_address(
        address: AgentAddress, settings: Settings, session_answer: SessionAnswer
    ) -> "HttpAgent":
        """Make the agent that the service's URL describes, with the secret from the environment.

        Raises:
            AgentConfigError: The URL or a member of the query is wrong, or the secret is missing.
        """
        query, rest = read_service(HttpQuery, address)
        secret = address.named_secret(query.secret_env, "secret_env")
        allowed = read_allowed(address, query.allow, NO_OPTIONS, known=None)
        try:
            agent = HttpAgent(
                f"{address.kind}:{rest}",
                query,
                secret=secret,
                settings=settings,
                session_answer=session_answer,
            )
        except ValueError as error:
            raise address.refuse(str(error)) from error
        agent.allowed = allowed
        return agent

    @override
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Post the turn and yield the service's events as they come."""
        return normalized(self._values(turn), turn.cancelled)

    @override
    async def probe(self) -> str:
        return await self._upstream.probe()

    @override
    async def aclose(self) -> None:
        """Close the connections."""
        await self._upstream.aclose()

    async def _values(self, turn: Turn) -> AsyncGenerator[Any, None]:
        if turn.is_short:
            body = self._body(turn)
        else:
            body = await to_thread.run_sync(self._body, turn, abandon_on_cancel=True)
        async with self._upstream.post(body, self._headers(turn, body)) as answer:
            if answer.media_type == "application/json":
                for value in _whole(_decoded(await answer.read(self._body_bytes_max))):
                    yield value
                return
            feed, flush, ignored = self._reader(answer)
            try:
                while (chunk := await answer.next_chunk()) is not None:
                    for text in feed(chunk):
                        if text != ignored:
                            yield _decoded(text)
                for text in flush():
                    if text != ignored:
                        yield _decoded(text, at_end=True)
            except LineTooLongError as error:
                raise _invalid("an event over the gateway's limit") from error
            if not answer.says_its_end:
                raise _incomplete()

    def _body(self, turn: Turn) -> bytes:
        rest = {
            "version": 1,
            "run_id": turn.run_id,
            "session": self._session_answer(turn.session),
            "options": dict(turn.options),
        }
        if turn.answers:
            rest["answers"] = {name: one.to_json() for name, one in turn.answers.items()}
        if turn.client_tools:
            rest["client_tools"] = list(turn.client_tools)
        return encode_with(rest, "messages", (message.to_json() for message in turn.messages))

    def _headers(self, turn: Turn, body: bytes) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/x-ndjson, application/json",
            "Idempotency-Key": turn.run_id,
            **trace_headers(),
        }
        if self._secret is not None:
            timestamp = str(self._clock.now_ms() // 1000)
            signed = timestamp.encode() + b"." + body
            headers["Bamboo-Timestamp"] = timestamp
            headers["Bamboo-Signature"] = "v1=" + hmac.digest(self._secret, signed, "sha256").hex()
        return headers

    def _reader(
        self, answer: Answer
    ) -> tuple[Callable[[bytes], list[bytes]], Callable[[], list[bytes]], bytes]:
        """Return how to make events' texts of bytes, how to get the last, and the text of none."""
        if answer.media_type == "text/event-stream":
            frames = SseReader(self._event_bytes_max)
            return frames.feed_data, frames.flush_data, _DONE
        if answer.media_type in _LINE_TYPES:
            lines = LineReader(self._event_bytes_max)
            return lines.feed, lines.flush, b""
        raise _invalid("neither an event stream, nor NDJSON, nor JSON")


def _whole(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict) and "type" not in value:
        yield MessageSaid({"role": "assistant"} | value)
        reason = "tool_calls" if value.get("tool_calls") else "stop"
        yield {
            "type": "complete",
            "usage": value.get("usage"),
            "finish_reason": reason,
            "model": value.get("model"),
        }
    else:
        yield value


def _decoded(data: bytes, *, at_end: bool = False) -> Any:
    try:
        return decode(data)
    except ValueError as error:
        # Half an event at the end means that the answer was cut.
        raise (_incomplete() if at_end else _invalid("what is not JSON")) from error


def _invalid(what: str) -> AgentError:
    return AgentError(f"The agent service sent {what}.", code="upstream_invalid")


def _incomplete() -> AgentError:
    return AgentError("The agent service broke off its answer.", code="upstream_incomplete")

"""`agui+http://…`, `agui+https://…`: an agent that speaks AG-UI 1.0 over SSE.

Each turn is one `POST` of RunAgentInput to the URL: the session is `threadId`, the run `runId`, the
conversation `messages`, the tools that the client brought `tools`. The answer is the protocol's
event stream. So an agent of LangGraph, pydantic-ai or CrewAI that is served over AG-UI gets what
the protocol lacks: a durable history, a resume, a stop that is not a lost connection.

| of AG-UI | here |
|---|---|
| text, reasoning, calls and results, also as chunks | `token`, `thinking`, the `tool_…` events |
| RUN_FINISHED | `complete`, with the usage; `cancelled` |
| its interrupts | `input_required`; the answers go back in `resume` |
| RUN_ERROR | the run fails with its message and code |
| state, steps, activities, RAW | `custom` events named `ag_ui` with the event as value |
| CUSTOM | `custom` |

Calls without a result are the client's to run, as the protocol says. MESSAGES_SNAPSHOT is ignored:
the session has the messages. Events that are not of the protocol are ignored too.

`allow` names the options that a chat may set. The default is `state` and `context`, RunAgentInput's
own, which clients of the wire AG-UI send; `forwarded_props` is the third.

The query may have `api_key_env` (the variable with a key, sent as `Authorization: Bearer`),
`connect_timeout_seconds` (10), `first_byte_timeout_seconds` (120), `idle_timeout_seconds` (120),
`retries_max` (3), `coalesce` and `allow`. The gateway removes these; the rest goes to the service.
A request is retried as one of `http:` is: only before the agent can have begun.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import anyio
from anyio import to_thread
from pydantic import Field
from typing_extensions import override

from bamboo_gateway.agents.agui_events import EventReader, invalid
from bamboo_gateway.agents.agui_messages import agui_messages, resume_of
from bamboo_gateway.agents.allowed import AllowedOptions, Bounds
from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.agents.options import (
    AgentAddress,
    AgentQuery,
    Options,
    VariableName,
    check_values,
    read_allowed,
    read_service,
)
from bamboo_gateway.agents.sse_reader import LineTooLongError, SseReader
from bamboo_gateway.agents.upstream import NOT_BEGUN_STATUSES, Upstream, Waits
from bamboo_gateway.domain.codec import decode, encode_with
from bamboo_gateway.domain.events import AgentEvent
from bamboo_gateway.observability.tracing import trace_headers
from bamboo_gateway.settings import Settings

PREFIX: Final = "agui+"
"""What the kinds of these URLs begin with, before that of the service's own URL."""

_PROTOCOL_VERSION: Final = "1.0"


class AgUiOptions(Options):
    """The `options` of a chat."""

    state: Any = None
    context: list[dict[str, Any]] = Field(default_factory=list)
    forwarded_props: Any = None


class AgUiQuery(Waits, AgentQuery):
    """The members of the query that the gateway reads."""

    api_key_env: VariableName | None = None


class AgUiAgent(Agent):
    """An agent that asks an AG-UI server.

    Args:
        url: Where turns are posted.
        query: The gateway's own members of the URL's query.
        api_key: The server's key, if it asks for one.
        event_bytes_max: Bounds what the server sends at once.
        allowed: Which options clients may set.
        sleep: Waits between tries; tests watch it.
    """

    def __init__(
        self,
        url: str,
        query: AgUiQuery,
        *,
        api_key: str | None,
        event_bytes_max: int,
        allowed: AllowedOptions,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.kind = PREFIX + url.partition(":")[0]
        self.allowed = allowed
        self.coalesce = query.coalesce
        self.description = query.description
        self._event_bytes_max = event_bytes_max
        self._secrets = (api_key,) if api_key else ()
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._upstream = Upstream(
            url,
            what="agent service",
            waits=query,
            retried_statuses=NOT_BEGUN_STATUSES,
            # A connection that turns out to be stale is asked again, and this agent may have begun.
            keeps_alive=False,
            secrets=self._secrets,
            sleep=sleep,
        )

    @staticmethod
    def from_address(address: AgentAddress, settings: Settings) -> "AgUiAgent":
        """Make the agent that the service's URL describes, with the key from the environment.

        Raises:
            AgentConfigError: The URL or a member of the query is wrong, or the key is missing.
        """
        query, rest = read_service(AgUiQuery, address)
        key = address.named_secret(query.api_key_env, "api_key_env")
        default = AllowedOptions({"state": Bounds(), "context": Bounds()})
        allowed = read_allowed(address, query.allow, default, AgUiOptions.model_fields)
        try:
            return AgUiAgent(
                f"{address.kind.removeprefix(PREFIX)}:{rest}",
                query,
                api_key=key,
                event_bytes_max=settings.max_event_bytes,
                allowed=allowed,
            )
        except ValueError as error:
            raise address.refuse(str(error)) from error

    @override
    def check_options(self, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        check_values(AgUiOptions, options)

    @override
    def options_schema(self) -> dict[str, Any]:
        return self.allowed.json_schema(AgUiOptions.model_json_schema()["properties"])

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Post the turn and yield the server's events as they come."""
        if turn.is_short:
            body = self._body(turn)
        else:
            body = await to_thread.run_sync(self._body, turn, abandon_on_cancel=True)
        reader = EventReader(turn, self._secrets)
        async with self._upstream.post(body, self._headers_of(turn)) as answer:
            if answer.media_type != "text/event-stream":
                raise invalid("no event stream; the URL is probably wrong")
            frames = SseReader(self._event_bytes_max)
            try:
                while (chunk := await answer.next_chunk()) is not None:
                    for text in frames.feed_data(chunk):
                        for event in reader.feed(_decoded(text)):
                            yield event
                        if reader.has_ended:
                            return
                for text in frames.flush_data():
                    for event in reader.feed(_decoded(text, at_end=True)):
                        yield event
            except LineTooLongError as error:
                raise invalid("an event over the gateway's limit") from error
        if not reader.has_ended:
            raise _incomplete()

    @override
    async def probe(self) -> str:
        return await self._upstream.probe()

    @override
    async def aclose(self) -> None:
        """Close the connections."""
        await self._upstream.aclose()

    def _headers_of(self, turn: Turn) -> dict[str, str]:
        return {**self._headers, "Idempotency-Key": turn.run_id, **trace_headers()}

    def _body(self, turn: Turn) -> bytes:
        options = turn.options
        rest: dict[str, Any] = {
            "threadId": turn.session["id"],
            "runId": turn.run_id,
            "protocolVersion": _PROTOCOL_VERSION,
            "state": {} if options.get("state") is None else options["state"],
            "tools": [{"description": "", **tool} for tool in turn.client_tools],
            "context": options.get("context") or [],
            "forwardedProps": options.get("forwarded_props") or {},
        }
        if turn.answers:
            rest["resume"] = resume_of(turn.answers)
        return encode_with(rest, "messages", agui_messages(turn.messages, turn.answers))


def _decoded(data: bytes, *, at_end: bool = False) -> dict[str, Any]:
    try:
        event = decode(data)
    except ValueError as error:
        # Half an event at the end means that the answer was cut.
        raise (_incomplete() if at_end else invalid("what is not JSON")) from error
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise invalid("an event without a type")
    return event


def _incomplete() -> AgentError:
    return AgentError("The agent service broke off its answer.", code="upstream_incomplete")

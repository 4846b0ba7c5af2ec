"""`openai:MODEL?…`: any server that speaks OpenAI's Chat Completions, streamed.

The query may have:

| | default | |
|---|---|---|
| `base_url` | `https://api.openai.com/v1` | the URL before `/chat/completions` |
| `api_key_env` | `OPENAI_API_KEY` | the variable with the key; with a `base_url` it may be unset |
| `media_origins` | `*` | origins of image URLs that are passed on, separated by commas |
| `max_image_bytes` | 5242880 | the largest uploaded picture that is sent; others are only named |
| `stream_usage` | true | asks for the usage chunk; a few servers reject that |
| `connect_timeout_seconds` | 10 | |
| `first_byte_timeout_seconds` | 120 | models think before they answer |
| `idle_timeout_seconds` | 120 | the longest silence inside an answer; comments end it |
| `retries_max` | 3 | before the first byte only |
| `ask_before` | | tools of the client that people approve first, separated by commas |
| `coalesce` | true | see `base.Agent` |
| `allow` | below | which of the options below a chat may set, and their bounds; see `allowed` |
| the options below but `tools`, `tool_choice`, `stop`, `response_format` | | for every chat |

The options are `model`, `system`, `temperature`, `top_p`, `max_tokens`, `max_completion_tokens`,
`seed`, `reasoning_effort`, `stop`, `tools`, `tool_choice`, `parallel_tool_calls` and
`response_format`. They go to the server unchanged, except `system`, which becomes the first
message, and `context_tokens`, which the gateway uses. A chat may set only the options in `allow`.
The default is `temperature`, `top_p`, `stop`, `seed`, and `max_tokens` and `max_completion_tokens`
up to the value in the query, if it has one. Other options are refused before the run is stored.

`context_tokens` bounds the request (not the answer). If the estimate of `openai_context` is higher,
the oldest whole turns are left out, and the run begins with the event

    {"type": "custom", "name": "context_trimmed", "value": {"dropped_turns": 3,
     "dropped_messages": 8, "estimated_tokens": 7411, "context_tokens": 8000}}

Tools that the client brought (`base.Turn`) are passed beside `tools`. Of two tools of one name
the configured one counts.

The session keeps everything; of a long session no more is read than that needs. A summary (`PUT
/sessions/{id}/summary`) is part of the first system message, replaces what it covers, and is never
left out.

The key is read once, at the start. It appears in no message, log line or error.
"""

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from dataclasses import replace
from math import inf
from typing import Annotated, Any
from urllib.parse import unquote

import anyio
from anyio import to_thread
from pydantic import Field
from typing_extensions import override

from bamboo_gateway.agents.allowed import ANY_OPTIONS, AllowedOptions, Bounds
from bamboo_gateway.agents.ask_before import ApprovalGate, as_messages, denials
from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.agents.media_urls import ANYWHERE, MediaOrigins
from bamboo_gateway.agents.openai_chunks import ChunkReader, invalid
from bamboo_gateway.agents.openai_context import trim
from bamboo_gateway.agents.openai_images import Images, images_of
from bamboo_gateway.agents.openai_messages import to_openai
from bamboo_gateway.agents.options import (
    AgentAddress,
    AgentQuery,
    Options,
    VariableName,
    check_values,
    read_allowed,
    read_options,
    read_query,
)
from bamboo_gateway.agents.sse_reader import LineTooLongError, SseReader
from bamboo_gateway.agents.upstream import Answer, Upstream, Waits
from bamboo_gateway.domain.client_tools import ClientTools
from bamboo_gateway.domain.codec import decode, encode_with
from bamboo_gateway.domain.events import AgentEvent, Complete, Custom
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.settings import Settings

_OPENAI_URL = "https://api.openai.com/v1"
_KEY_VARIABLE = "OPENAI_API_KEY"
_AFTER_FINISH_SECONDS = 10.0
"""How long to wait for the usage when the answer itself is whole."""
_DONE = b"[DONE]"
_HARMLESS = ("temperature", "top_p", "stop", "seed")
"""The options that a chat may set without `allow`."""
_RETRIED_STATUSES = frozenset({429, *range(500, 600)})


class _Sampling(Options):
    """Options of both the query and a chat."""

    system: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    reasoning_effort: str | None = None
    parallel_tool_calls: bool | None = None
    context_tokens: Annotated[int, Field(ge=1)] | None = None


class OpenAIOptions(_Sampling):
    """The `options` of a chat."""

    model: Annotated[str, Field(min_length=1)] | None = None
    stop: str | list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class OpenAIQuery(_Sampling, Waits, AgentQuery):
    """The query of the agent's URL."""

    base_url: str | None = None
    api_key_env: VariableName | None = None
    media_origins: MediaOrigins = ANYWHERE
    max_image_bytes: Annotated[int, Field(ge=0)] = 5 * MiB
    stream_usage: bool = True
    ask_before: str | None = None


class OpenAIAgent(Agent):
    """An agent that asks a model server.

    Args:
        model: Which model answers, unless a chat may name another one.
        query: The URL's query.
        api_key: The server's key, if it asks for one.
        event_bytes_max: Bounds what the server sends at once.
        allowed: Which options clients may set.
        sleep: Waits between tries; tests watch it.
    """

    def __init__(
        self,
        model: str,
        query: OpenAIQuery,
        *,
        api_key: str | None,
        event_bytes_max: int,
        allowed: AllowedOptions = ANY_OPTIONS,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.allowed = allowed
        self.coalesce = query.coalesce
        self.kind = "openai"
        self.model = model
        self.description = query.description
        self._defaults = query.model_dump(include=set(_Sampling.model_fields), exclude_none=True)
        self._stream_usage = query.stream_usage
        self._media_origins = query.media_origins
        self._image_bytes_max = query.max_image_bytes
        names = (name.strip() for name in (query.ask_before or "").split(","))
        self._ask_before = frozenset(name for name in names if name)
        self._event_bytes_max = event_bytes_max
        self._secrets = (api_key,) if api_key else ()
        self._headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._upstream = Upstream(
            (query.base_url or _OPENAI_URL).rstrip("/") + "/chat/completions",
            what="model server",
            waits=query,
            retried_statuses=_RETRIED_STATUSES,
            keeps_alive=True,
            secrets=self._secrets,
            sleep=sleep,
        )

    @staticmethod
    def from_address(address: AgentAddress, settings: Settings) -> "OpenAIAgent":
        """Make the agent that `openai:MODEL?…` describes, with the key from the environment.

        Raises:
            AgentConfigError: The model or the key is missing, or the query is wrong.
        """
        model = unquote(address.target)
        if not model:
            raise address.refuse("no model is named; write `openai:MODEL`")
        query = read_query(OpenAIQuery, address)
        if query.base_url is not None and ("?" in query.base_url or "#" in query.base_url):
            raise address.refuse("query: base_url has a query or fragment of its own")
        key = _key(address, query)
        allowed = read_allowed(
            address, query.allow, _allowed_by_default(query), OpenAIOptions.model_fields
        )
        try:
            return OpenAIAgent(
                model,
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
        check_values(OpenAIOptions, options)

    @override
    def model_of(self, options: Mapping[str, Any]) -> str | None:
        named = options.get("model")
        return named if isinstance(named, str) else self.model

    @override
    def options_schema(self) -> dict[str, Any]:
        return self.allowed.json_schema(OpenAIOptions.model_json_schema()["properties"])

    def is_enough(self, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
        """Return whether `messages` fill `context_tokens`; see `SupportsWindow`.

        Once the oldest turn that was read is left out, everything before it would be too.
        """
        given = self._options(options)
        tokens_max = given.get("context_tokens")
        if tokens_max is None:
            return False
        return trim(self._messages(messages, given), tokens_max, given.get("tools")).turns > 0

    @override
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Ask the server and yield its answer as it comes."""
        if turn.answers or self._ask_before:
            return self._with_approvals(turn)
        return self._answered(turn)

    async def _with_approvals(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        refused = denials(turn.answers)
        for denial in refused:
            yield denial
        if len(refused) < len(turn.answers):
            # The client runs the approved calls, and sends their results.
            yield Complete(finish_reason="tool_calls")
            return
        turn = replace(turn, messages=[*turn.messages, *as_messages(refused)])
        gate = ApprovalGate(self._ask_before)
        async with aclosing(self._answered(turn)) as events:
            async for event in events:
                for passed in gate.passed(event):
                    yield passed

    async def _answered(self, turn: Turn) -> AsyncGenerator[AgentEvent, None]:
        images = await images_of(turn, self._image_bytes_max)
        if turn.is_short and not images:
            body, trimmed = self._request(turn, images)
        else:
            body, trimmed = await to_thread.run_sync(
                self._request, turn, images, abandon_on_cancel=True
            )
        del images
        if trimmed is not None:
            yield trimmed
        reader = ChunkReader(turn.run_id, self._event_bytes_max, self._secrets)
        async with self._upstream.post(body, self._headers) as answer:
            if answer.media_type == "application/json":
                # A server that cannot stream answers as a whole; so does an error with status 200.
                for event in reader.feed(_decoded(await answer.read(self._event_bytes_max))):
                    yield event
                if not (reader.is_finished or reader.said_something):
                    raise invalid("an answer without a choice")
            else:
                # In this generator, because another one would cost each event one more step.
                stream = _Stream(answer, reader, self._event_bytes_max)
                while (texts := await stream.next_texts()) is not None:
                    for text in texts:
                        for event in reader.feed(_decoded(text, at_end=stream.has_ended)):
                            yield event
                await stream.finish()
        for event in reader.end():
            yield event

    @override
    async def probe(self) -> str:
        return await self._upstream.probe()

    @override
    async def aclose(self) -> None:
        """Close the connections."""
        await self._upstream.aclose()

    def _request(self, turn: Turn, images: Images) -> tuple[bytes, Custom | None]:
        """Return the request's body, and the event that says what it leaves out."""
        options = self._options(turn.options)
        if turn.client_tools:
            options["tools"] = _with_client_tools(options.get("tools") or [], turn.client_tools)
        messages = self._messages(turn.messages, options, images)
        tokens_max = options.pop("context_tokens", None)
        event = None
        if tokens_max is not None:
            trimmed = trim(messages, tokens_max, options.get("tools"))
            messages = trimmed.messages
            event = trimmed.event(tokens_max, turn.left_out) if trimmed.turns else None
        options.pop("system", None)
        request: dict[str, Any] = {"model": options.pop("model"), "stream": True}
        if self._stream_usage:
            request["stream_options"] = {"include_usage": True}
        return encode_with(request | options, "messages", messages), event

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        read = read_options(OpenAIOptions, given).model_dump(exclude_none=True)
        return {"model": self.model} | self._defaults | read

    def _messages(
        self, messages: Iterable[Message], options: Mapping[str, Any], images: Images | None = None
    ) -> list[dict[str, Any]]:
        return to_openai(messages, options.get("system"), self._media_origins, images)


class _Stream:
    """An event stream, up to the end that the server has to announce.

    Attributes:
        has_ended: Whether the server has closed the stream.
    """

    def __init__(self, answer: Answer, reader: ChunkReader, event_bytes_max: int) -> None:
        if answer.media_type == "text/html":
            raise invalid("a web page; base_url is probably wrong")
        self.has_ended = False
        self._answer = answer
        self._reader = reader
        self._frames = SseReader(event_bytes_max)
        self._is_done = False

    async def next_texts(self) -> list[bytes] | None:
        """Return the data of the events that arrived, perhaps of none; None at the end."""
        if self._is_done or self.has_ended:
            return None
        is_finished = self._reader.is_finished
        try:
            chunk = await self._answer.next_chunk(_AFTER_FINISH_SECONDS if is_finished else inf)
        except AgentError:
            if is_finished:
                # The answer is whole; a problem with the usage does not change that.
                return None
            raise
        try:
            if chunk is not None:
                texts = self._frames.feed_data(chunk)
            else:
                self.has_ended = True
                texts = self._frames.flush_data()
        except LineTooLongError as error:
            raise invalid("an event over the gateway's limit") from error
        if _DONE in texts:
            self._is_done = True
            del texts[texts.index(_DONE) :]
        return texts

    async def finish(self) -> None:
        """Check that the answer was whole, and let its connection be used again.

        Raises:
            AgentError: `upstream_incomplete`.
        """
        is_whole = self._reader.is_finished or (self._is_done and self._reader.said_something)
        if not is_whole:
            raise _incomplete()
        if self._is_done:
            await self._answer.drain()


def _decoded(data: bytes, *, at_end: bool = False) -> Any:
    try:
        return decode(data)
    except ValueError as error:
        # Half a chunk at the end means that the answer was cut.
        raise (_incomplete() if at_end else invalid("what is not JSON")) from error


def _incomplete() -> AgentError:
    return AgentError("The model server broke off its answer.", code="upstream_incomplete")


def _with_client_tools(configured: list[dict[str, Any]], tools: ClientTools) -> list[Any]:
    names = {(tool.get("function") or {}).get("name") for tool in configured}
    brought = [
        {"type": "function", "function": tool} for tool in tools if tool["name"] not in names
    ]
    return [*configured, *brought]


def _allowed_by_default(query: OpenAIQuery) -> AllowedOptions:
    """Return the options that clients may set without `allow`: none that costs more.

    A limit of tokens can only be lowered, and only the one that the agent has: a model server
    refuses a request with both.
    """
    own = {"max_tokens": query.max_tokens, "max_completion_tokens": query.max_completion_tokens}
    limits = {name: Bounds(high=most) for name, most in own.items() if most is not None}
    return AllowedOptions(dict.fromkeys(_HARMLESS, Bounds()) | limits)


def _key(address: AgentAddress, query: OpenAIQuery) -> str | None:
    called = _KEY_VARIABLE if query.api_key_env is None else "that api_key_env names"
    key = address.secret(query.api_key_env or _KEY_VARIABLE, called=called)
    if key is None and (query.api_key_env is not None or query.base_url is None):
        raise address.refuse(f"the environment variable {called} is not set")
    return key

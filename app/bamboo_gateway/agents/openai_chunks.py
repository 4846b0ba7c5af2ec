"""Convert the chunks of a streamed Chat Completion into events.

The chunks follow the API's reference (`chat.completion.chunk`) or the variants of other servers:
reasoning as `reasoning_content` or `reasoning`, content as a list of parts, tool calls without an
index or an id, arguments as an object, usage in every chunk.

While the arguments of a call arrive they become `ToolDelta`s. The `ToolStart` follows when the call
is whole. Calls may be interleaved by index, so no call is known to be whole before all are.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.upstream_errors import words_of_error
from bamboo_gateway.domain.codec import encode, object_in
from bamboo_gateway.domain.events import (
    COUNT_MAX,
    AgentEvent,
    Complete,
    Thinking,
    Token,
    ToolDelta,
    ToolStart,
    Usage,
)

_CALLS_MAX = 128
"""The most calls of one message: as many as OpenAI allows."""


@dataclass(slots=True)
class _Call:
    """The parts of a tool call that have arrived."""

    id: str
    given_id: str
    index: int | None
    name: str = ""
    arguments: str = ""


class ChunkReader:
    """Reads the chunks of one answer.

    Args:
        run_id: Part of the ids that calls get if the server gives them none.
        arguments_bytes_max: Bounds the arguments of calls that are not whole yet.
        secrets: Texts to remove from the server's errors.
    """

    def __init__(
        self, run_id: str, arguments_bytes_max: int, secrets: tuple[str, ...] = ()
    ) -> None:
        self._run_id = run_id
        self._arguments_left = arguments_bytes_max
        self._secrets = secrets
        self._calls: list[_Call] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._said_something = False

    @property
    def is_finished(self) -> bool:
        """Whether the server has sent its finish reason; only the usage may follow."""
        return self._finish_reason is not None

    @property
    def said_something(self) -> bool:
        """Whether any text, reasoning or call has arrived."""
        return self._said_something

    def feed(self, chunk: Any) -> Iterator[AgentEvent]:
        """Return the events of one decoded chunk.

        Raises:
            AgentError: `upstream_error` if the chunk is an error, `upstream_invalid` if it is
                something else.
        """
        if not isinstance(chunk, dict):
            raise invalid("a chunk that is not an object")
        if chunk.get("error") or chunk.get("object") == "error":
            raise self._error(chunk)
        if isinstance(chunk.get("usage"), dict):
            self._usage = _usage(chunk["usage"])
        choices = chunk.get("choices")
        # The usage chunk has no choices; some servers begin with a chunk without content as well.
        if not choices:
            return
        if not isinstance(choices, list) or not isinstance(choices[0], dict):
            raise invalid("a chunk without a usable choice")
        choice = choices[0]
        if choice.get("error"):
            raise self._error(choice)
        # An answer that is not streamed has `message` in place of `delta`.
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise invalid("a delta that is not an object")
        for event in self._delta(delta):
            self._said_something = True
            yield event
        if (reason := choice.get("finish_reason")) and self._finish_reason is None:
            yield from self._finish(str(reason))

    def end(self) -> Iterator[AgentEvent]:
        """Return the events that the end of the stream completes, the terminal event last."""
        if self._finish_reason is None:
            yield from self._finish("stop")
        yield Complete(self._usage, self._finish_reason or "stop")

    def _error(self, holder: Mapping[str, Any]) -> AgentError:
        words = words_of_error(holder, self._secrets)
        return AgentError(
            "The model server failed in mid-answer" + (f": {words}" if words else "."),
            code="upstream_error",
        )

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[AgentEvent]:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str) and reasoning:
            yield Thinking(reasoning)
        # A refusal is sent in place of content.
        for said in (delta.get("content"), delta.get("refusal")):
            if isinstance(said, str):
                if said:
                    yield Token(said)
            elif said is not None:
                yield from _parts(said)
        calls = delta.get("tool_calls")
        if calls is None:
            return
        if not isinstance(calls, list):
            raise invalid("tool calls that are not a list")
        for piece in calls:
            yield from self._call_piece(piece)

    def _call_piece(self, piece: Any) -> Iterator[AgentEvent]:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            raise invalid("a tool call without a function")
        call = self._call_of(piece, str(function.get("name") or ""))
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            arguments = encode(arguments).decode()
        self._arguments_left -= len(arguments)
        if self._arguments_left < 0:
            raise invalid("tool calls over the gateway's limit for one event")
        self._said_something = True
        if arguments:
            call.arguments += arguments
            yield ToolDelta(call.id, arguments)

    def _call_of(self, piece: Mapping[str, Any], name: str) -> _Call:
        given_id, index = str(piece.get("id") or ""), piece.get("index")
        call = self._known(given_id, index)
        # Some servers give every call the index 0; a new id with a name begins a new call.
        if call is None or (given_id and name and call.given_id not in {"", given_id}):
            if len(self._calls) >= _CALLS_MAX:
                raise invalid(f"more than {_CALLS_MAX} tool calls")
            made = given_id or f"call_{self._run_id}_{len(self._calls)}"
            call = _Call(made, given_id, index if isinstance(index, int) else None)
            self._calls.append(call)
        # Servers send the name once, in pieces, or whole with every piece.
        if name != call.name:
            call.name += name
        return call

    def _known(self, given_id: str, index: Any) -> _Call | None:
        for call in reversed(self._calls):
            if (index is not None and call.index == index) or (
                given_id and call.given_id == given_id
            ):
                return call
        if index is None and not given_id and self._calls:
            return self._calls[-1]
        return None

    def _finish(self, reason: str) -> Iterator[AgentEvent]:
        # Clients run tools when the reason is `tool_calls`, but some servers send `stop`.
        self._finish_reason = "tool_calls" if self._calls and reason == "stop" else reason
        self._calls.sort(key=lambda call: call.index or 0)
        for call in self._calls:
            if not call.name:
                raise invalid("a tool call without a name")
            yield ToolStart(call.id, call.name, _arguments(call.arguments))


def invalid(what: str) -> AgentError:
    """Return the error for an answer that does not follow the API."""
    return AgentError(f"The model server sent {what}.", code="upstream_invalid")


def _parts(value: Any) -> Iterator[AgentEvent]:
    for part in value if isinstance(value, list) else ():
        match part:
            case {"type": "text", "text": str(text)} if text:
                yield Token(text)
            case {"type": "thinking", "thinking": str(text)} if text:
                yield Thinking(text)
            case {"type": "thinking", "thinking": list(pieces)}:
                for piece in pieces:
                    if isinstance(piece, dict) and isinstance(piece.get("text"), str):
                        yield Thinking(piece["text"])
            case _:
                continue


def _arguments(text: str) -> dict[str, Any] | str:
    if not text.strip():
        # Some servers send this for a function without parameters.
        return {}
    read = object_in(text)
    return text if read is None else read


def _usage(given: Mapping[str, Any]) -> Usage:
    def count(name: str, holder: Any = given) -> int:
        value = holder.get(name) if isinstance(holder, dict) else None
        if not isinstance(value, int | float) or value != value:  # NaN is not itself
            return 0
        return int(min(max(0, value), COUNT_MAX))

    prompt, completion = count("prompt_tokens"), count("completion_tokens")
    total = count("total_tokens") or min(prompt + completion, COUNT_MAX)
    cached = count("cached_tokens", given.get("prompt_tokens_details"))
    reasoning = count("reasoning_tokens", given.get("completion_tokens_details"))
    return Usage(prompt, completion, total, cached, reasoning)

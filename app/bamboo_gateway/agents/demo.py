"""`demo:`: a small scripted agent, so that the first `curl` shows everything without a key.

It thinks, calls a tool, streams words that quote the user, and completes with a usage. The same
input always gives the same events. These options may be in the query and, above it, in a chat:

| option | default | |
|---|---|---|
| `delay_ms` | 25 | between two words; the default turn takes one to two seconds |
| `text` | | the text to stream instead of the script |
| `tokens` | | streams exactly this many tokens, repeating or cutting the words |
| `thinking`, `tool` | true | whether it thinks and calls its tool |
| `ask` | false | asks for an approval of its tool call, and goes on with the answer |
| `client_tool` | | calls this tool of the client's (`*`: the first), if the client brings it |
| `hold` | | waits at `start`, `tool`, `middle` or `end` until it is cancelled |
| `fail` | | fails at the end with this code (snake_case) |

`{"delay_ms": 0, "tokens": 100, "thinking": false, "tool": false}` streams 100 tokens and nothing
else. A chat may set all of these options, unless `allow` in the query names some. Without a delay
some words become one event, unless the query has `coalesce=false`. Usage counts words: those of the
user's message, and the streamed tokens.

With `client_tool` the turn ends with the call of the client's tool, instead of words; its arguments
are `{"text": …}`, as of the demo's own tool. A turn that begins with a result of the client's
quotes it, and neither thinks nor calls a tool.
"""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Annotated, Any, Literal

import anyio
from anyio.lowlevel import checkpoint
from pydantic import Field
from typing_extensions import override

from bamboo_gateway.agents.allowed import ANY_OPTIONS, AllowedOptions
from bamboo_gateway.agents.base import Agent, AgentError, Answer, Turn
from bamboo_gateway.agents.options import (
    AgentAddress,
    AgentQuery,
    Options,
    check_values,
    read_allowed,
    read_options,
    read_query,
)
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    InputRequired,
    Thinking,
    Token,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.messages import Message

_ECHO_CHARS_MAX = 200
"""The most characters of the user's message that are quoted, so that events stay small."""

_TOOL_NAME = "count_words"


class DemoOptions(Options):
    """The options of the query and of a chat."""

    delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 25
    text: Annotated[str, Field(max_length=100_000)] | None = None
    tokens: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    thinking: bool = True
    tool: bool = True
    ask: bool = False
    client_tool: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    hold: Literal["start", "tool", "middle", "end"] | None = None
    fail: Annotated[str, Field(pattern=r"\A[a-z][a-z0-9_]{0,63}\z")] | None = None


class DemoQuery(DemoOptions, AgentQuery):
    """The query of the agent's URL."""


class DemoAgent(Agent):
    """The agent of `demo:`.

    Args:
        defaults: The values of options that a chat does not set.
        allowed: The options that clients may set.
        coalesce: As `Agent.coalesce`.
    """

    def __init__(
        self,
        defaults: DemoOptions | None = None,
        allowed: AllowedOptions = ANY_OPTIONS,
        *,
        coalesce: bool = True,
    ) -> None:
        self.kind = "demo"
        self._defaults = defaults or DemoOptions()
        self.allowed = allowed
        self.coalesce = coalesce

    @override
    def check_options(self, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        check_values(DemoOptions, options)

    @staticmethod
    def from_address(address: AgentAddress) -> "DemoAgent":
        """Make the agent that `demo:?…` describes.

        Raises:
            AgentConfigError: The query has a member that the agent does not know.
        """
        if address.target:
            raise address.refuse("`demo:` takes only a query, like `demo:?delay_ms=0`")
        query = read_query(DemoQuery, address)
        known = DemoOptions.model_fields
        # All options: a demo costs nothing and has no secret.
        allowed = read_allowed(address, query.allow, AllowedOptions.parse("*", known), known)
        agent = DemoAgent(query, allowed, coalesce=query.coalesce)
        agent.description = query.description or "A scripted agent that shows what agents can do."
        return agent

    @override
    def options_schema(self) -> dict[str, Any]:
        return self.allowed.json_schema(DemoOptions.model_json_schema()["properties"])

    def is_enough(self, messages: Sequence[Message], options: Mapping[str, Any]) -> bool:
        """Return whether the user's last message is among `messages`; see `SupportsWindow`."""
        del options
        return any(message.role == "user" for message in messages)

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Play the script."""
        given = read_options(DemoOptions, turn.options)
        options = self._defaults.model_copy(update=given.model_dump(exclude_unset=True))
        pause = _Pause(options)
        said = _last_words_of_user(turn)
        result = _result_of_client(turn)
        await pause.at("start")
        if turn.answers:
            for answer in turn.answers.values():
                yield _result_after(answer, said)
        elif options.thinking and result is None:
            for word in _words("Let me see how many words that was. "):
                yield Thinking(word)
                await pause.between()
        if options.tool and not turn.answers and result is None:
            call_id = f"call_{turn.run_id}"
            yield ToolStart(call_id, _TOOL_NAME, {"text": said[:_ECHO_CHARS_MAX]})
            await pause.between()
            await pause.at("tool")
            if options.ask:
                yield InputRequired("May I count the words?", "approval", call_id)
                return
            yield _counted(call_id, said)
        if result is None and (tool := _called_of_client(turn, options.client_tool)) is not None:
            call_id = f"call_{turn.run_id}_{tool}"
            yield ToolStart(call_id, tool, {"text": said[:_ECHO_CHARS_MAX]})
            yield Complete(finish_reason="tool_calls")
            return
        script = _script(said) if result is None else f"The tool answered: “{result}”."
        words = _words(script if options.text is None else options.text)
        count = len(words) if options.tokens is None else options.tokens
        if count and not words:
            raise AgentError("options: tokens needs a text with words in it", code="invalid_option")
        for number, word in enumerate(islice(cycle(words), count)):
            if number == count // 2:
                await pause.at("middle")
            yield Token(word)
            await pause.between()
        await pause.at("end")
        if options.fail is not None:
            raise AgentError("The demo was asked to fail.", code=options.fail)
        prompt = len(said.split())
        yield Complete(Usage(prompt, count, prompt + count))


def _counted(call_id: str, said: str) -> ToolComplete:
    counted = {"words": len(said.split()), "characters": len(said)}
    return ToolComplete(call_id, ToolResult(success=True, content=counted))


def _result_after(answer: Answer, said: str) -> AgentEvent:
    """Return the result of the call that was asked about."""
    call_id = answer.request.tool_call_id
    assert call_id is not None  # the demo asks about its call alone
    if answer.approved:
        return _counted(call_id, said)
    reason = answer.value.get("reason") if answer.status == "answered" else "no answer in time"
    return ToolError(call_id, f"Not approved: {reason or 'no reason given'}.")


class _Pause:
    """The waits of the script."""

    def __init__(self, options: DemoOptions) -> None:
        self._seconds = options.delay_ms / 1000
        self._hold = options.hold

    async def between(self) -> None:
        """Wait for the time of one word, or yield to the event loop."""
        if self._seconds:
            await anyio.sleep(self._seconds)
        else:
            await checkpoint()

    async def at(self, place: str) -> None:
        """Wait here until cancelled, if `hold` names this place."""
        if place == self._hold:
            await anyio.sleep_forever()


def _last_words_of_user(turn: Turn) -> str:
    for message in reversed(turn.messages):
        if message.role == "user":
            return message.text
    return ""


def _result_of_client(turn: Turn) -> str | None:
    """Return the beginning of the result with which the client goes on, if the turn begins so."""
    last = turn.messages[-1] if turn.messages else None
    if turn.answers or last is None or last.role != "tool":
        return None
    return last.text[:_ECHO_CHARS_MAX]


def _called_of_client(turn: Turn, wanted: str | None) -> str | None:
    """Return the name of the client's tool to call, if it brings the one that is wanted."""
    names = [tool["name"] for tool in turn.client_tools]
    return next((name for name in names if wanted in (name, "*")), None)


def _script(said: str) -> str:
    words = len(said.split())
    echo = said[:_ECHO_CHARS_MAX] + ("…" if len(said) > _ECHO_CHARS_MAX else "")
    return (
        f"You said: “{echo}”. I counted {words} {'word' if words == 1 else 'words'}. "
        "Every word of this answer is an event in your session's log: "
        "close this connection, come back with the last id you saw, and nothing is missing."
    )


def _words(text: str) -> list[str]:
    """Cut a text into words with the space after them; joined, they are the text again."""
    return re.findall(r"\s*\S+\s?|\s+", text)

"""The events of tools that an agent runs itself: always a start and an end.

A generator cannot yield from inside a context manager or a callback. So this helper makes the
events, and the agent's code yields them.

    call = turn.tool("search", {"query": "bamboo"})
    yield call.start
    yield call.complete(await search("bamboo"))

or, if the helper shall end the call whatever the function does:

    call = turn.tool("search", {"query": "bamboo"})
    async for event in call.run(search):  # calls search(query="bamboo")
        yield event
    print(call.result)

If the agent returns while a started call has no end, the client runs that call. If the agent fails,
the call gets a `tool_error` (`normalization.normalized`).
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

import anyio
import structlog
from anyio.lowlevel import RunVar

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import ToolComplete, ToolDelta, ToolError, ToolResult, ToolStart

_THREADS_MAX = 100
"""The most plain functions of tools that run at once; more wait. `python:` turns have as many."""

_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("bamboo tool threads")

log = structlog.get_logger(__name__)


class ToolCall:
    """One call of one tool.

    Attributes:
        id: The id of the call.
        name: The name of the tool.
        arguments: The arguments of the call.
        result: The result after `run`; None before, and if the call failed.
        failed: Whether the call ended with an error.
    """

    def __init__(self, call_id: str, name: str, arguments: Mapping[str, Any] | None = None) -> None:
        self.id = call_id
        self.name = name
        self.arguments = dict(arguments or {})
        self.result: Any = None
        self.failed = False

    @property
    def start(self) -> ToolStart:
        """The event that begins the call."""
        return ToolStart(self.id, self.name, self.arguments)

    def delta(self, content: str) -> ToolDelta:
        """Return the event for a piece of output before the result."""
        return ToolDelta(self.id, content)

    def complete(self, content: Any, *, success: bool = True) -> ToolComplete:
        """Return the event that ends the call with a result: text or any JSON value."""
        self.result = content
        self.failed = not success
        return ToolComplete(self.id, ToolResult(success, content))

    def error(self, words: str) -> ToolError:
        """Return the event that ends the call with an error. Clients and models read `words`."""
        self.failed = True
        return ToolError(self.id, words)

    async def run(
        self, function: Callable[..., Any]
    ) -> AsyncGenerator[ToolStart | ToolComplete | ToolError, None]:
        """Call `function(**arguments)` between the two events; a plain function runs in a thread.

        An exception becomes a `tool_error`: with the message of an `AgentError`, of others only
        with the type, since their messages may hold secrets. The agent continues and may check
        `failed`.
        """
        yield self.start
        try:
            if inspect.iscoroutinefunction(function):
                result = await function(**self.arguments)
            else:
                result = await anyio.to_thread.run_sync(
                    partial(function, **self.arguments),
                    abandon_on_cancel=True,
                    limiter=_limiter(),
                )
        except BambooError as error:
            yield self.error(str(error.detail))
        except Exception as error:
            # The boundary to the tool: the model handles a failed tool, and the run continues.
            log.exception("tool failed", tool_name=self.name, tool_call_id=self.id)
            yield self.error(f"The tool failed: {type(error).__name__}.")
        else:
            yield self.complete(result)


def _limiter() -> anyio.CapacityLimiter:
    # Separate from the gateway's own threads, which tools that hang must not use up.
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS_MAX)
        _LIMITER.set(limiter)
        return limiter

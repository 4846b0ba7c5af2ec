"""Tools that an agent runs itself: the events that say a call, always in pairs.

A generator cannot yield from inside a context manager or a callback, so the helper does not hide
the events: it makes them, and whoever writes the agent yields them.

    call = turn.tool("search", {"query": "bamboo"})
    yield call.start
    yield call.complete(await search("bamboo"))

or, with the end of the pair in the helper's hands whatever the function does:

    call = turn.tool("search", {"query": "bamboo"})
    async for event in call.run(search):  # calls search(query="bamboo")
        yield event
    print(call.result)

A call that is started and neither completed nor failed when the agent returns is the client's to
run; when the agent fails it is closed with a `tool_error` (see `normalization.normalized`).
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
"""Plain functions of tools that run at once; more wait. As many as `python:` has for its turns."""

_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("bamboo tool threads")

log = structlog.get_logger(__name__)


class ToolCall:
    """One call of one tool.

    Attributes:
        id: The call's id.
        name: The tool's name.
        arguments: What it is called with.
        result: What `run` got back; None before, and when it failed.
        failed: Whether the call ended in an error.
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
        """Gives the event for a piece of output that is there before the result."""
        return ToolDelta(self.id, content)

    def complete(self, content: Any, *, success: bool = True) -> ToolComplete:
        """Gives the event that ends the call with its result, text or any JSON value."""
        self.result = content
        self.failed = not success
        return ToolComplete(self.id, ToolResult(success, content))

    def error(self, words: str) -> ToolError:
        """Gives the event that ends the call as failed. Clients and models read `words`."""
        self.failed = True
        return ToolError(self.id, words)

    async def run(
        self, function: Callable[..., Any]
    ) -> AsyncGenerator[ToolStart | ToolComplete | ToolError, None]:
        """Calls `function(**arguments)` between the two events; a plain function in a thread.

        What it raises becomes the `tool_error`: the words of an `AgentError`, of others only the
        type, since their words may hold secrets. The agent goes on, and may look at `failed`.
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
            # The boundary to the tool: its trouble is the model's to deal with, not the run's end.
            log.exception("tool failed", tool_name=self.name, tool_call_id=self.id)
            yield self.error(f"The tool failed: {type(error).__name__}.")
        else:
            yield self.complete(result)


def _limiter() -> anyio.CapacityLimiter:
    # Apart from the gateway's own threads: tools that hang must not stop what needs a thread.
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(_THREADS_MAX)
        _LIMITER.set(limiter)
        return limiter

"""`python:package.module:object`: the user's own code.

The object is one of

* an async generator function of the turn, or a plain one, which runs in a thread;
* a function of the turn that returns the answer, async or plain (in a thread);
* an object with such a function as its method `run`, or a class of such objects, made once,
  without arguments. If it has `aclose()`, that is awaited when the gateway ends.

It yields events (`bamboo_gateway.domain.events`), JSON objects of the same shape, plain strings
(tokens), and `Usage`. A plain generator and a function may return any of these. The turn is a
`bamboo_gateway.agents.base.Turn`. The module is imported once, at the start, with the working
directory on the path.

An exception ends the run: an `AgentError` with its code and message, any other as `agent_error`
with a message without details, and its traceback in the log. Async code must let cancellation
through. Plain code that works long between two yields checks `turn.cancelled.is_set()`.

The query may have `threads_max` (100), the number of turns of plain code that run at once (more
wait), `coalesce` (true; see `base.Agent`), and `allow`, the `options` that a chat may set
(`allow=language,depth:1..3`; see `allowed`). The default of `allow` is none, because options come
from anybody who may chat, and the code may pass them on.
"""

import asyncio
import importlib
import inspect
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any, cast

import anyio
import structlog
from pydantic import Field
from typing_extensions import override

from bamboo_gateway.agents.allowed import ANY_OPTIONS, NO_OPTIONS, AllowedOptions
from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.agents.normalization import normalized
from bamboo_gateway.agents.options import (
    DESCRIPTION_CHARS_MAX,
    AgentAddress,
    AgentQuery,
    read_allowed,
    read_query,
)
from bamboo_gateway.agents.threaded import Returned, items_from_thread
from bamboo_gateway.domain.errors import BambooError, InvalidEvent
from bamboo_gateway.domain.events import AgentEvent

log = structlog.get_logger(__name__)

_WORDS_CHARS_MAX = 1000
"""The longest error message: a sentence for people. Longer ones are a mistake or a dump."""


class UnusableError(Exception):
    """The object does not exist or cannot answer turns; the message is one line."""


class PythonQuery(AgentQuery):
    """The query of the agent's URL."""

    threads_max: Annotated[int, Field(ge=1, le=10_000)] = 100


class PythonAgent(Agent):
    """An agent that is the user's own code.

    Args:
        target: A function of the turn, or an object or class with one as its method `run`.
        threads_max: How many turns of plain code run at once.
        allowed: Which options clients may set.
        coalesce: As `Agent.coalesce`.

    Raises:
        UnusableError: The object cannot answer turns.
    """

    def __init__(
        self,
        target: Any,
        threads_max: int = 100,
        allowed: AllowedOptions = ANY_OPTIONS,
        *,
        coalesce: bool = True,
    ) -> None:
        self.allowed = allowed
        self.coalesce = coalesce
        self._target = target() if isinstance(target, type) else target
        self._function = _function_of(self._target)
        self.description = _description_of(self._target)
        self._slots = anyio.Semaphore(threads_max)

    @staticmethod
    def from_address(address: AgentAddress) -> "PythonAgent":
        """Import the object that the URL names.

        Raises:
            AgentConfigError: The object does not exist, its import raises, or it cannot answer
                turns.
        """
        query = read_query(PythonQuery, address)
        module, _, path = address.target.partition(":")
        if not module or not path:
            raise address.refuse("write `python:package.module:object`")
        allowed = read_allowed(address, query.allow, NO_OPTIONS, known=None)
        try:
            target = _imported(module, path)
            agent = PythonAgent(target, query.threads_max, allowed, coalesce=query.coalesce)
        except UnusableError as error:
            raise address.refuse(str(error)) from error
        except (Exception, SystemExit) as error:
            raise address.refuse(f"{address.target}: {_one_line(error)}") from error
        agent.description = query.description or agent.description
        return agent

    @override
    def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        """Run the user's code."""
        return normalized(self._values(turn), turn.cancelled, _boundary(turn.run_id))

    @override
    async def aclose(self) -> None:
        """Close the user's object, if it can be closed."""
        if (aclose := getattr(self._target, "aclose", None)) is not None:
            await aclose()

    def _values(self, turn: Turn) -> AsyncGenerator[Any, None]:
        if inspect.isasyncgenfunction(self._function):
            # Unchanged, because each generator around another costs every event one more step.
            values: AsyncGenerator[Any, None] = self._function(turn)
            return values
        return self._returned(turn)

    async def _returned(self, turn: Turn) -> AsyncGenerator[Any, None]:
        if inspect.iscoroutinefunction(self._function):
            result: Any = self._function(turn)
        else:
            call = partial(self._function, turn)
            items = items_from_thread(call, f"agent-{turn.run_id}", self._slots)
            result = None
            async with aclosing(items):
                async for item in items:
                    if isinstance(item, Returned):
                        result = item.value
                    else:
                        yield item
        if isinstance(result, Awaitable):
            result = await result
        if isinstance(result, AsyncIterator):
            try:
                async for value in result:
                    yield value
            finally:
                if isinstance(result, AsyncGenerator):
                    await result.aclose()
        elif isinstance(result, list | tuple):
            for value in result:
                yield value
        elif result is not None:
            yield result


@contextmanager
def _boundary(run_id: str) -> Iterator[None]:
    """Translate exceptions of the user's code; only the message of an `AgentError` passes."""
    try:
        yield
    except AgentError as error:
        raise AgentError(_safe(error.detail), code=_safe(error.code)) from error
    except InvalidEvent:
        raise
    except (asyncio.CancelledError, SystemExit, BambooError) as error:
        # A cancellation that nobody requested, an exit, or an error with another meaning for the
        # gateway than for the agent.
        if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
            raise
        log.exception("agent failed", run_id=run_id)
        raise AgentError("The agent failed; the gateway's log has the details.") from error


def _imported(module_name: str, path: str) -> Any:
    # As `python -m` does. An installed program does not search the working directory.
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109  the path as text is what is compared
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise UnusableError(f"there is no module {error.name!r}") from error
        raise
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise UnusableError(f"module {module_name!r} has no {path!r}") from error
    return found


def _function_of(target: Any) -> Callable[[Turn], Any]:
    function = getattr(target, "run", target)
    if not callable(function):
        raise UnusableError("it is neither a function of the turn nor has it a method `run`")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UnusableError("its function must take one argument, the turn") from error
    except ValueError:
        # Some built-in callables have no signature; the call itself will show.
        pass
    if not inspect.isroutine(function) and not isinstance(function, partial):
        # A callable object: its method tells which kind of function it is.
        function = function.__call__
    return cast("Callable[[Turn], Any]", function)


def _description_of(target: Any) -> str | None:
    """Return the first line of what the user has written about a function or an object's class."""
    if isinstance(target, partial):
        target = target.func
    words = target.__doc__ if inspect.isroutine(target) else type(target).__doc__
    if not isinstance(words, str) or not words.strip():
        return None
    return _safe(words.strip().splitlines()[0].strip())[:DESCRIPTION_CHARS_MAX]


def _one_line(error: BaseException) -> str:
    frames = extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError):
        place = f" ({Path(error.filename or '?').name}, line {error.lineno})"
        error = type(error)(error.msg)
    words = " ".join(str(error).split())[:_WORDS_CHARS_MAX]
    return f"{type(error).__name__}: {words}{place}" if words else f"{type(error).__name__}{place}"


def _safe(words: object) -> str:
    # Text that cannot be encoded would prevent the run's end from being stored.
    return str(words)[:_WORDS_CHARS_MAX].encode(errors="replace").decode()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""The user's own code as an agent."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from bamboo_gateway.agents.base import AgentConfigError, AgentError, Turn
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.agents.python import PythonAgent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.errors import InvalidEvent, NotFound
from bamboo_gateway.domain.events import (
    AgentEvent,
    Cancelled,
    Complete,
    Custom,
    Failed,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolError,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.settings import Settings
from tests.agents.turns import DEADLINE_SECONDS, events_of, turn_of


async def asked(target: Any, turn: Turn | None = None) -> list[AgentEvent]:
    return await events_of(PythonAgent(target), turn or turn_of())


async def as_generator(turn: Turn) -> AsyncIterator[Any]:
    yield "Hello "
    yield turn.messages[-1].text


def as_plain_generator(turn: Turn) -> Iterator[Any]:
    yield "Hello "
    yield turn.messages[-1].text


async def as_coroutine(turn: Turn) -> Any:
    return ["Hello ", turn.messages[-1].text]


def as_function(turn: Turn) -> Any:
    return ["Hello ", turn.messages[-1].text]


def as_function_that_gives_a_generator(turn: Turn) -> Any:
    return as_generator(turn)


def as_function_that_gives_a_coroutine(turn: Turn) -> Any:
    return as_coroutine(turn)


class WithRun:
    async def run(self, turn: Turn) -> AsyncIterator[Any]:
        async for value in as_generator(turn):
            yield value


class WithCall:
    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        async for value in as_generator(turn):
            yield value


async def _prefixed(prefix: str, turn: Turn) -> AsyncIterator[Any]:
    yield prefix
    yield turn.messages[-1].text


@pytest.mark.parametrize(
    "target",
    [
        as_generator,
        as_plain_generator,
        as_coroutine,
        as_function,
        as_function_that_gives_a_generator,
        as_function_that_gives_a_coroutine,
        WithRun,
        WithRun(),
        WithRun().run,
        WithCall(),
        partial(_prefixed, "Hello "),
        lambda turn: ["Hello ", turn.messages[-1].text],
    ],
)
async def test_every_shape_of_code_can_answer(target: Any) -> None:
    assert await asked(target) == [Token("Hello "), Token("Hello there"), Complete()]


async def test_json_objects_and_the_gateways_classes_may_be_yielded() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield {"type": "thinking", "content": "hm"}
        yield Custom("plan", turn.metadata["plan"])
        yield {"type": "message", "message": {"role": "assistant", "content": "Hi"}}
        yield {"type": "complete", "finish_reason": "length"}

    assert await asked(answer) == [
        Thinking("hm"),
        Custom("plan", "free"),
        MessageSaid({"role": "assistant", "content": "Hi"}),
        Complete(None, "length"),
    ]


@pytest.mark.parametrize(
    ("said", "kept"), [('{"a": 1}', {"a": 1}), ("[1]", "[1]"), ("look at", "look at"), ({}, {})]
)
async def test_arguments_that_are_the_text_of_an_object_become_that_object(
    said: Any, kept: Any
) -> None:
    call = {"type": "tool_start", "tool_call_id": "a", "tool_name": "look", "arguments": said}
    assert (await asked(lambda _: [call]))[0] == ToolStart("a", "look", kept)
    assert (await asked(lambda _: [ToolStart("a", "look", said)]))[0] == ToolStart(
        "a", "look", kept
    )


async def test_usage_is_added_up_and_reported_at_the_end() -> None:
    def answer(_: Turn) -> Any:
        yield Usage(1, 2, 3)
        yield "Hi"
        return Usage(10, 20, 30)

    assert (await asked(answer))[-1] == Complete(Usage(11, 22, 33))


async def test_nothing_is_read_after_the_terminal_event() -> None:
    closed = anyio.Event()

    async def answer(_: Turn) -> AsyncIterator[Any]:
        try:
            yield Cancelled("enough")
            yield "more"
        finally:
            closed.set()

    assert await asked(answer) == [Cancelled("enough")]
    assert closed.is_set()


BAD: list[tuple[str, Any]] = [
    ("an unknown type", {"type": "banana"}),
    ("no type", {"content": "x"}),
    ("a wrong field", {"type": "token", "content": 5}),
    ("a further field", {"type": "token", "content": "x", "seq": 5}),
    ("a wrong class", 5),
    ("nothing", None),
    ("a wrong field in our class", Token(5)),  # type: ignore[arg-type]
    ("a lone surrogate", "\ud800"),
    ("a lone surrogate in a value", Custom("x", "\ud800")),
    ("a number beyond 64 bits", Custom("x", 2**70)),
    ("an object that is no JSON", Custom("x", object())),
    ("a key that is no string", ToolStart("a", "b", {1: 2})),  # type: ignore[dict-item]
    ("a wrong field in a failure", Failed("x", 5)),  # type: ignore[arg-type]
    ("a negative usage", Usage(-1, 0, 0)),
    ("a negative usage at the end", Complete(Usage(-1, 0, 0))),
    ("a usage that no reader keeps", {"type": "complete", "usage": {"prompt_tokens": 2**53}}),
    ("a usage that is no number", Usage("1", 0, 0)),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("value", [bad for _, bad in BAD], ids=[name for name, _ in BAD])
async def test_an_invalid_event_ends_the_turn_as_failed(value: Any) -> None:
    async def answer(_: Turn) -> AsyncIterator[Any]:
        yield "Hi"
        yield value

    with pytest.raises(InvalidEvent):
        await asked(answer)


async def test_an_agent_that_returns_has_completed_even_without_an_event() -> None:
    silent: list[Any] = [lambda _: None, lambda _: iter([]), lambda _: [Complete()]]
    for target in silent:
        assert await asked(target) == [Complete()]
    assert await asked(lambda _: [Usage(1, 1, 2)]) == [Complete(Usage(1, 1, 2))]


def raising(error: BaseException) -> list[Callable[[Turn], Any]]:
    async def generator(_: Turn) -> AsyncIterator[Any]:
        yield "Hi"
        raise error

    async def coroutine(_: Turn) -> Any:
        raise error

    def plain_generator(_: Turn) -> Iterator[Any]:
        yield "Hi"
        raise error

    def function(_: Turn) -> Any:
        raise error

    return [generator, coroutine, plain_generator, function]


@pytest.mark.parametrize("shape", range(4))
@pytest.mark.parametrize(
    "error", [SystemExit("secret"), NotFound("secret"), asyncio.CancelledError("secret")]
)
async def test_exceptions_with_a_meaning_for_the_gateway_only_fail_the_run(
    error: BaseException, shape: int
) -> None:
    with pytest.raises(AgentError) as caught:
        await asked(raising(error)[shape])
    assert caught.value.code == "agent_error"
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("shape", range(4))
async def test_other_errors_reach_the_log(shape: int) -> None:
    with pytest.raises(KeyError, match="secret"):
        await asked(raising(KeyError("secret"))[shape])


@pytest.mark.parametrize("shape", range(4))
async def test_the_message_of_an_agent_error_is_passed_on_as_far_as_it_can_be_stored(
    shape: int,
) -> None:
    error = AgentError("No more\ud800 credit" + "!" * 5000, code="no_credit")
    with pytest.raises(AgentError) as caught:
        await asked(raising(error)[shape])
    assert caught.value.code == "no_credit"
    assert caught.value.detail.startswith("No more? credit")
    assert len(caught.value.detail) < 2000


async def test_a_cancellation_passes_through_async_code() -> None:
    cleaned = anyio.Event()
    started = anyio.Event()

    async def answer(_: Turn) -> AsyncIterator[Any]:
        yield "Hi"
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asked, answer)
            await started.wait()
            tasks.cancel_scope.cancel()
    assert cleaned.is_set()


async def test_plain_code_is_left_at_once_and_closed_in_its_thread_when_cancelled() -> None:
    seen: list[object] = []
    started, closed, go_on = anyio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    turn = turn_of()

    def answer(turn: Turn) -> Iterator[Any]:
        thread = threading.current_thread()
        try:
            yield "Hi"
            loop.call_soon_threadsafe(started.set)
            go_on.wait(DEADLINE_SECONDS)
            seen.append(turn.cancelled.is_set())
            yield "never taken"
            seen.append("went on")
        finally:
            seen.append(threading.current_thread() is thread)
            closed.set()

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(asked, answer, turn)
            await started.wait()
            turn.cancelled.set()
            tasks.cancel_scope.cancel()
        # The thread is still at work; nobody waits for it.
        assert not closed.is_set()
        go_on.set()
        await anyio.to_thread.run_sync(closed.wait, DEADLINE_SECONDS)
    assert seen == [True, True]


async def test_plain_code_has_one_thread_from_beginning_to_end_and_not_the_loops() -> None:
    threads: set[threading.Thread] = set()

    def answer(_: Turn) -> Iterator[Any]:
        for _number in range(200):
            threads.add(threading.current_thread())
            yield "x"

    assert len(await asked(answer)) == 201
    assert len(threads) == 1
    assert threading.current_thread() not in threads


async def test_fast_plain_code_is_held_back_by_a_slow_reader() -> None:
    produced = 0
    full = threading.Event()

    def answer(_: Turn) -> Iterator[Any]:
        nonlocal produced
        for produced in range(1, 10_001):
            if produced == 65:
                full.set()
            yield "x"

    with anyio.fail_after(DEADLINE_SECONDS):
        events: Any = PythonAgent(answer).run(turn_of())
        await anext(events)
        # The loop does nothing but wait here, so the thread gets as far as it may.
        await anyio.to_thread.run_sync(full.wait, DEADLINE_SECONDS)
        assert produced <= 1 + 2 * 64 + 1
        assert len([event async for event in events]) == 10_000
    assert produced == 10_000


async def test_turns_of_plain_code_over_the_limit_wait_for_a_thread() -> None:
    running: list[str] = []
    go_on = threading.Event()

    def answer(turn: Turn) -> Any:
        running.append(turn.run_id)
        go_on.wait(DEADLINE_SECONDS)
        return "done"

    agent = PythonAgent(answer, threads_max=2)
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(events_of, agent, turn_of())
            await anyio.wait_all_tasks_blocked()
            assert len(running) <= 2
            go_on.set()
    assert len(running) == 5


# -- tools --------------------------------------------------------------------------------------


async def test_a_tools_events_pair_and_have_ids_of_their_own() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        first, second = turn.tool("look", {"at": 1}), turn.tool("find", call_id="mine")
        yield first.start
        yield second.start
        yield first.delta("…")
        yield second.error("not there")
        yield first.complete({"seen": True})
        assert (first.failed, second.failed, first.result) == (False, True, {"seen": True})

    events = await asked(answer)
    assert [getattr(event, "tool_call_id", None) for event in events] == [
        *["call_run_1_0", "mine"],
        *["call_run_1_0", "mine"],
        *["call_run_1_0", None],
    ]
    assert events[-2] == ToolComplete("call_run_1_0", ToolResult(True, {"seen": True}))


async def _async_tool(at: int) -> int:
    return at + 1


def _plain_tool(at: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return at + 1


@pytest.mark.parametrize("function", [_async_tool, _plain_tool])
async def test_a_tool_may_be_run_between_its_events(function: Callable[..., Any]) -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        call = turn.tool("look", {"at": 1})
        async for event in call.run(function):
            yield event
        yield str(call.result)

    assert await asked(answer) == [
        ToolStart("call_run_1_0", "look", {"at": 1}),
        ToolComplete("call_run_1_0", ToolResult(True, 2)),
        Token("2"),
        Complete(),
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [(AgentError("no such book"), "no such book"), (ValueError("s3cret"), "ValueError")],
)
async def test_a_tool_that_raises_is_a_tool_error_and_the_agent_goes_on(
    error: Exception, words: str
) -> None:
    def fail() -> None:
        raise error

    async def answer(turn: Turn) -> AsyncIterator[Any]:
        call = turn.tool("look")
        async for event in call.run(fail):
            yield event
        assert call.failed
        yield "sorry"

    events = await asked(answer)
    assert isinstance(events[1], ToolError)
    assert words in events[1].error
    assert "s3cret" not in events[1].error
    assert events[2:] == [Token("sorry"), Complete()]


async def test_an_agent_that_returns_after_its_cancellation_has_not_completed() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield turn.tool("look").start
        turn.cancelled.set()

    events = await asked(answer)
    assert [type(event) for event in events] == [ToolStart]


async def test_the_client_answers_calls_without_a_result_when_the_agent_returns() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield turn.tool("look").start

    events = await asked(answer)
    assert isinstance(events[0], ToolStart)
    assert events[1:] == [Complete(finish_reason="tool_calls")]


async def test_calls_without_a_result_are_closed_when_the_agent_completes_with_stop() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield turn.tool("look").start
        yield Complete()

    events = await asked(answer)
    assert [type(event) for event in events] == [ToolStart, ToolError, Complete]


async def test_calls_left_open_by_an_error_are_closed_too() -> None:
    heard: list[AgentEvent] = []

    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield turn.tool("look").start
        raise AgentError("gone", code="gone")

    async def hear() -> None:
        async for event in PythonAgent(answer).run(turn_of()):
            heard.append(event)  # noqa: PERF401  a comprehension loses them when it raises

    with pytest.raises(AgentError):
        await hear()
    assert [type(event) for event in heard] == [ToolStart, ToolError]


async def test_calls_that_the_client_is_to_answer_stay_open() -> None:
    async def answer(turn: Turn) -> AsyncIterator[Any]:
        yield turn.tool("look").start
        yield Complete(finish_reason="tool_calls")

    assert [type(event) for event in await asked(answer)] == [ToolStart, Complete]


# -- the start ----------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Write a module `my_agent` into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_agent", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(text: str) -> None:
        (tmp_path / "my_agent.py").write_text(text, encoding="utf-8")

    return write


async def test_the_object_is_found_in_the_working_directory(module: Callable[[str], None]) -> None:
    module(
        "class Agents:\n"
        "    class Kind:\n"
        "        closed = False\n"
        "        async def run(self, turn):\n"
        "            yield 'Hi'\n"
        "        async def aclose(self):\n"
        "            type(self).closed = True\n"
    )
    agent = make_agent(
        "helper", "python:my_agent:Agents.Kind?threads_max=3", Settings(), session_answer
    )
    assert await events_of(agent, turn_of()) == [Token("Hi"), Complete()]
    await agent.aclose()
    assert sys.modules["my_agent"].Agents.Kind.closed
    del sys.modules["my_agent"]


@pytest.mark.parametrize(
    ("text", "url", "words"),
    [
        ("", "python:", "python:package.module:object"),
        ("", "python:my_agent", "python:package.module:object"),
        ("", "python:nowhere:x", "no module 'nowhere'"),
        ("", "python:nowhere.deeper:x", "no module 'nowhere'"),
        ("", "python:my_agent.deeper:x", "no module 'my_agent.deeper'"),
        ("", "python:..x:y", "TypeError"),
        ("", "python:my_agent:x", "module 'my_agent' has no 'x'"),
        ("x = 5", "python:my_agent:x", "neither"),
        ("def x(): pass", "python:my_agent:x", "one argument"),
        ("async def x(a, b): yield", "python:my_agent:x", "one argument"),
        ("import gone", "python:my_agent:x", "ModuleNotFoundError: No module named 'gone'"),
        ("a = 1\nint('1\\n2')", "python:my_agent:x", "(my_agent.py, line 2)"),
        ("a = 1\nb = = 2", "python:my_agent:x", "(my_agent.py, line 2)"),
        ("raise SystemExit", "python:my_agent:x", "SystemExit (my_agent.py, line 1)"),
        ("class x:\n def __init__(self, a): pass", "python:my_agent:x", "TypeError"),
        ("", "python:my_agent:x?y=1", "'y' is not known"),
    ],
)
def test_an_object_that_cannot_be_imported_or_cannot_answer_stops_the_start_with_one_line(
    module: Callable[[str], None], text: str, url: str, words: str
) -> None:
    module(text)
    with pytest.raises(AgentConfigError) as caught:
        make_agent("helper", url, Settings(), session_answer)
    assert "\n" not in caught.value.detail
    assert words in caught.value.detail
    sys.modules.pop("my_agent", None)

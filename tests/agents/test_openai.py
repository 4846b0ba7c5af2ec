"""The OpenAI-compatible agent against a scripted server on a real socket."""

import socket
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from bamboo_gateway.agents import upstream
from bamboo_gateway.agents.base import Agent, AgentError, Turn
from bamboo_gateway.agents.openai import OpenAIAgent, OpenAIQuery
from bamboo_gateway.domain.events import (
    AgentEvent,
    Complete,
    Custom,
    Thinking,
    Token,
    ToolDelta,
    ToolStart,
    Usage,
)
from bamboo_gateway.domain.messages import Message
from tests.agents.scripted_server import (
    CUT,
    END,
    Script,
    ScriptedServer,
    Step,
    bytewise,
    chunk,
    head,
    scripted,
    sse,
    stream,
    whole,
)
from tests.agents.turns import DEADLINE_SECONDS, events_of, let_pass, said, turn_of

KEY = "sk-very-secret"
EVENT_BYTES_MAX = 4096


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def call(index: int | None, name: str = "", arguments: Any = "", **fields: Any) -> dict[str, Any]:
    place = {} if index is None else {"index": index}
    return {"function": {"name": name, "arguments": arguments}} | place | fields


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
HELLO = [
    delta(role="assistant", content=""),
    delta(content="Grüß"),
    delta(content=" dich 🎋\u2028"),
    delta("stop"),
    {"choices": [], "usage": USAGE},
]
HELLO_EVENTS = [Token("Grüß"), Token(" dich 🎋\u2028"), Complete(Usage(3, 2, 5), "stop")]


@asynccontextmanager
async def playing(
    *scripts: Script, slept: list[float] | None = None, key: str | None = KEY, **query: Any
) -> AsyncIterator[tuple[Agent, ScriptedServer]]:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    async with scripted(*scripts) as server:
        agent = OpenAIAgent(
            "tiny",
            OpenAIQuery(base_url=f"{server.url}/v1/", **query),
            api_key=key,
            event_bytes_max=EVENT_BYTES_MAX,
            sleep=sleep,
        )
        try:
            yield agent, server
        finally:
            await agent.aclose()


async def answer_to(*steps: Step, **query: Any) -> list[AgentEvent]:
    async with playing(steps, **query) as (agent, _):
        return await events_of(agent, turn_of())


async def failure_of(*scripts: Script, **query: Any) -> AgentError:
    async with playing(*scripts, **query) as (agent, _):
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
    assert KEY not in caught.value.detail
    return caught.value


async def test_text_usage_and_the_finish_reason_are_given() -> None:
    assert await answer_to(*stream(HELLO)) == HELLO_EVENTS


async def test_bytes_may_arrive_one_by_one() -> None:
    assert await answer_to(head(), *bytewise(sse(HELLO)), END) == HELLO_EVENTS


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"])
async def test_other_line_ends_comments_and_no_final_blank_line_are_taken(line_end: bytes) -> None:
    text = b": PROCESSING\n\n" + sse(HELLO, done=False).rstrip(b"\n")
    assert await answer_to(head(), *bytewise(text.replace(b"\n", line_end)), END) == HELLO_EVENTS


async def test_a_stream_without_done_is_whole_when_it_said_why_it_finished() -> None:
    assert await answer_to(*stream(HELLO, done=False)) == HELLO_EVENTS


async def test_the_request_is_what_the_api_says() -> None:
    async with playing(stream(HELLO), system="Be kind.", temperature=0.5, max_tokens=9) as (
        agent,
        server,
    ):
        tools = [{"type": "function", "function": {"name": "look"}}]
        await events_of(agent, turn_of(temperature=1, tools=tools, stop=["x"], model="big"))
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.json == {
        "model": "big",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hello there"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1,
        "max_tokens": 9,
        "tools": tools,
        "stop": ["x"],
    }


async def test_tools_of_the_client_are_passed_beside_configured_ones() -> None:
    configured = [{"type": "function", "function": {"name": "look", "strict": True}}]
    brought: Any = ({"name": "look", "parameters": {}}, {"name": "wait", "parameters": {}})
    for options, expected in (({}, [*brought]), ({"tools": configured}, [brought[1]])):
        async with playing(stream(HELLO)) as (agent, server):
            turn = replace(turn_of(**options), client_tools=brought)
            await events_of(agent, turn)
        own = [{"type": "function", "function": tool} for tool in expected]
        assert server.requests[0].json["tools"] == [*options.get("tools", []), *own]


async def test_turns_that_do_not_fit_into_the_context_are_left_out_and_reported() -> None:
    long = "x" * 300
    given = [
        said("system", "Summary of the conversation so far:\n\nBirds.", metadata={"summary": True}),
        *[said("user", long), said("assistant", long), said("user", "And?")],
    ]
    async with playing(stream(HELLO), context_tokens=9000) as (agent, server):
        events = await events_of(agent, turn_of(*given, context_tokens=100))
    value = {
        "dropped_turns": 1,
        "dropped_messages": 2,
        "estimated_tokens": 25,
        "context_tokens": 100,
    }
    assert events == [Custom("context_trimmed", value), *HELLO_EVENTS]
    assert server.requests[0].json["messages"] == [
        {"role": "system", "content": "Summary of the conversation so far:\n\nBirds."},
        {"role": "user", "content": "And?"},
    ]
    assert "context_tokens" not in server.requests[0].json


async def test_a_conversation_that_fits_into_the_context_is_sent_without_a_report() -> None:
    assert await answer_to(*stream(HELLO), context_tokens=100) == HELLO_EVENTS


async def test_without_stream_usage_and_key_neither_is_in_the_request() -> None:
    async with playing(stream(HELLO), stream_usage=False, key=None) as (agent, server):
        await events_of(agent, turn_of())
    assert "stream_options" not in server.requests[0].json
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    "options", [{"n": 2}, {"temperature": 3}, {"temperature": "1"}, {"stream": False}]
)
async def test_other_options_are_refused_before_anything_is_asked(options: dict[str, Any]) -> None:
    async with playing() as (agent, server):
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of(**options))
    assert caught.value.code == "invalid_option"
    assert server.requests == []


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
async def test_reasoning_is_thinking(field: str) -> None:
    chunks = [delta(**{field: "Hm"}), delta(content="Yes", **{field: None}), delta("stop")]
    assert await answer_to(*stream(chunks)) == [Thinking("Hm"), Token("Yes"), Complete()]


async def test_content_may_be_parts_and_a_refusal_becomes_text() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]},
        {"type": "thinking", "thinking": "so"},
        {"type": "text", "text": "Yes"},
        {"type": "reference"},
    ]
    events = await answer_to(*stream([delta(content=parts), delta("stop", refusal="No")]))
    assert events == [Thinking("Hm"), Thinking("so"), Token("Yes"), Token("No"), Complete()]


async def test_interleaved_tool_calls_are_put_together_by_index() -> None:
    chunks = [
        delta(tool_calls=[call(0, "look", "", id="a"), call(1, "find", '{"q"', id="b")]),
        delta(tool_calls=[call(0, arguments='{"x"')]),
        delta(tool_calls=[call(1, arguments=":1}")]),
        delta(tool_calls=[call(0, arguments=":2}")]),
        delta("tool_calls"),
    ]
    events = await answer_to(*stream(chunks))
    assert events == [
        ToolDelta("b", '{"q"'),
        ToolDelta("a", '{"x"'),
        ToolDelta("b", ":1}"),
        ToolDelta("a", ":2}"),
        ToolStart("a", "look", {"x": 2}),
        ToolStart("b", "find", {"q": 1}),
        Complete(None, "tool_calls"),
    ]


@pytest.mark.parametrize(
    ("pieces", "starts"),
    [
        # No index and whole at once; `stop` where `tool_calls` is meant.
        ([call(None, "look", '{"x":1}', id="a")], [ToolStart("a", "look", {"x": 1})]),
        # Arguments as an object.
        ([call(0, "look", {"x": 1}, id="a")], [ToolStart("a", "look", {"x": 1})]),
        # Neither id nor index after the first piece.
        (
            [call(None, "look", '{"x":', id="a"), call(None, arguments="1}")],
            [ToolStart("a", "look", {"x": 1})],
        ),
        # Every call has the index 0.
        (
            [call(0, "look", "{}", id="a"), call(0, "find", "{}", id="b")],
            [ToolStart("a", "look"), ToolStart("b", "find")],
        ),
        # No id at all.
        (
            [call(0, "look", "{}"), call(1, "find", "")],
            [ToolStart("call_run_1_0", "look"), ToolStart("call_run_1_1", "find")],
        ),
        # The name with every piece, and in pieces.
        (
            [call(0, "look", "{", id="a"), call(0, "look", "}", id="a")],
            [ToolStart("a", "look")],
        ),
        ([call(0, "lo", "", id="a"), call(0, "ok", "")], [ToolStart("a", "look")]),
        # No JSON, or no object.
        ([call(0, "look", '{"x":', id="a")], [ToolStart("a", "look", '{"x":')]),
        ([call(0, "look", "[1]", id="a")], [ToolStart("a", "look", "[1]")]),
    ],
)
async def test_tool_calls_of_other_servers_are_understood(
    pieces: list[dict[str, Any]], starts: list[ToolStart]
) -> None:
    chunks = [*(delta(tool_calls=[piece]) for piece in pieces), delta("stop")]
    events = await answer_to(*stream(chunks))
    assert [event for event in events if isinstance(event, ToolStart)] == starts
    assert events[-1] == Complete(None, "tool_calls")


async def test_a_server_that_does_not_stream_is_understood() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "tool_calls": [call(None, "look", "{}", id="a")],
    }
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    assert await answer_to(*whole(200, answer)) == [
        Token("Hi"),
        ToolDelta("a", "{}"),
        ToolStart("a", "look"),
        Complete(Usage(3, 2, 5), "tool_calls"),
    ]


BROKEN: Iterable[tuple[str, list[object]]] = [
    ("upstream_error", [{"error": {"message": f"overloaded {KEY}", "code": 502}}]),
    ("upstream_error", [{"error": "overloaded"}]),
    ("upstream_error", [{"object": "error", "message": "overloaded"}]),
    ("upstream_error", [{"choices": [{"error": {"message": "overloaded"}}]}]),
    ("upstream_invalid", ["text"]),
    ("upstream_invalid", [{"choices": ["x"]}]),
    ("upstream_invalid", [{"choices": [{"delta": "x"}]}]),
    ("upstream_invalid", [delta(tool_calls="x")]),
    ("upstream_invalid", [delta(tool_calls=["x"])]),
    ("upstream_invalid", [delta(tool_calls=[call(0)]), delta("stop")]),
    ("upstream_invalid", [delta(content="x" * EVENT_BYTES_MAX)]),
    ("upstream_invalid", [delta(tool_calls=[call(0, "f", "x" * 999)]) for _ in range(5)]),
    ("upstream_invalid", [delta(tool_calls=[call(i, "f")]) for i in range(200)]),
    ("upstream_incomplete", []),
]


@pytest.mark.parametrize(("code", "chunks"), BROKEN)
async def test_an_error_in_mid_stream_ends_the_turn_with_its_code(
    code: str, chunks: list[object]
) -> None:
    error = await failure_of(stream([delta(content="Hel"), *chunks] if chunks else []))
    assert error.code == code
    assert ("overloaded" in error.detail) == (code == "upstream_error")


async def test_a_chunk_that_is_no_json_is_reported() -> None:
    assert (await failure_of([head(), chunk(b"data: {x\n\n"), END])).code == "upstream_invalid"


async def test_a_web_page_is_no_answer() -> None:
    page = [head(media_type="text/html; charset=utf-8"), chunk(b"<html>"), END]
    assert (await failure_of(page)).code == "upstream_invalid"


async def test_an_empty_json_answer_is_no_answer() -> None:
    assert (await failure_of(whole(200, {}))).code == "upstream_invalid"
    assert (await failure_of(whole(200, {"x": "y" * EVENT_BYTES_MAX}))).code == "upstream_invalid"


WHOLE = sse(HELLO)
BEFORE_FINISH = sse(HELLO[:3], done=False)


@pytest.mark.parametrize("cut", range(0, len(BEFORE_FINISH), 7))
@pytest.mark.parametrize("end", [END, CUT])
async def test_an_answer_that_ends_before_it_is_finished_is_incomplete(cut: int, end: Step) -> None:
    error = await failure_of([head(), chunk(BEFORE_FINISH[:cut]), end])
    assert error.code == "upstream_incomplete"


async def test_a_cut_after_the_finish_costs_only_the_usage() -> None:
    for end in (CUT, END):
        events = await answer_to(head(), chunk(sse(HELLO[:4], done=False)), end)
        assert events == [*HELLO_EVENTS[:2], Complete(None, "stop")]


async def test_a_silence_in_mid_answer_is_a_timeout() -> None:
    script: Script = [head(), chunk(BEFORE_FINISH), anyio.Event()]
    async with playing(script, idle_timeout_seconds=0.05) as (agent, server):
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
        with anyio.fail_after(DEADLINE_SECONDS):
            await server.left.wait()
    assert caught.value.code == "upstream_timeout"


async def test_a_silence_after_the_finish_costs_only_the_usage() -> None:
    steps: Script = [head(), chunk(sse(HELLO[:4], done=False)), anyio.Event()]
    events = await answer_to(*steps, idle_timeout_seconds=0.05)
    assert events[-1] == Complete(None, "stop")


async def test_an_answer_that_does_not_begin_is_a_timeout_and_is_not_asked_for_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    errors: list[AgentError] = []
    async with playing([anyio.Event()], first_byte_timeout_seconds=20) as (agent, server):

        async def ask() -> None:
            with pytest.raises(AgentError) as caught:
                await events_of(agent, turn_of())
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await server.requested.wait()
            let_pass(21, monkeypatch)
    assert [error.code for error in errors] == ["upstream_timeout"]
    assert len(server.requests) == 1


async def test_tokens_are_given_as_they_arrive() -> None:
    go_on = anyio.Event()
    rest = sse(HELLO)[len(BEFORE_FINISH) :]
    async with playing([head(), chunk(BEFORE_FINISH), go_on, chunk(rest), END]) as (agent, _):
        heard: list[AgentEvent] = []
        with anyio.fail_after(DEADLINE_SECONDS):
            async for event in agent.run(turn_of()):
                heard.append(event)
                if len(heard) == 2:
                    # The server sends nothing more before this: both were not held back.
                    go_on.set()
    assert heard == HELLO_EVENTS


async def test_cancelling_closes_the_request() -> None:
    script: Script = [head(), chunk(BEFORE_FINISH), anyio.Event()]
    async with playing(script) as (agent, server):
        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:

                async def hear() -> None:
                    async for event in agent.run(turn_of()):
                        if event == HELLO_EVENTS[1]:
                            heard.set()

                heard = anyio.Event()
                tasks.start_soon(hear)
                await heard.wait()
                tasks.cancel_scope.cancel()
            await server.left.wait()


async def test_cancelling_before_the_answer_begins_closes_the_request() -> None:
    async with playing([anyio.Event()]) as (agent, server):
        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(events_of, agent, turn_of())
                await server.requested.wait()
                tasks.cancel_scope.cancel()
            await server.left.wait()


async def test_closing_the_generator_closes_the_request() -> None:
    async with playing([head(), chunk(BEFORE_FINISH), anyio.Event()]) as (agent, server):
        events: Any = agent.run(turn_of())
        with anyio.fail_after(DEADLINE_SECONDS):
            assert await anext(events) == HELLO_EVENTS[0]
            await events.aclose()
            await server.left.wait()


async def test_a_finished_answers_connection_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "_DRAIN_SECONDS", DEADLINE_SECONDS)
    async with playing(stream(HELLO), stream(HELLO)) as (agent, server):
        assert await events_of(agent, turn_of()) == HELLO_EVENTS
        assert await events_of(agent, turn_of()) == HELLO_EVENTS
    assert server.connections == 1


@pytest.mark.parametrize("wait", [{"retry_after": "7"}, {"retry_after_ms": "7000"}])
async def test_a_429_is_retried_after_the_time_it_names(wait: dict[str, str]) -> None:
    slept: list[float] = []
    refusal = whole(429, {"error": {"message": "slow down"}}, **wait)
    async with playing(refusal, stream(HELLO), slept=slept) as (agent, server):
        assert await events_of(agent, turn_of()) == HELLO_EVENTS
    assert slept == [7]
    assert len(server.requests) == 2


async def test_a_429_that_asks_for_too_long_a_wait_is_reported_at_once() -> None:
    slept: list[float] = []
    refusal = whole(429, {"error": {"message": f"slow\ndown, {KEY}"}}, retry_after="600")
    error = await failure_of(refusal, slept=slept)
    assert (error.code, error.retry_after_seconds) == ("upstream_rate_limited", 600)
    assert "slow down, …" in error.detail
    assert slept == []


async def test_a_retry_after_that_is_a_date_in_the_past_means_now() -> None:
    slept: list[float] = []
    refusal = whole(503, {}, retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    async with playing(refusal, stream(HELLO), slept=slept) as (agent, _):
        await events_of(agent, turn_of())
    assert slept == [0]


async def test_a_429_that_no_waiting_resolves_is_not_retried() -> None:
    refusal = whole(429, {"error": {"message": "no quota"}}, x_should_retry="false")
    assert (await failure_of(refusal)).code == "upstream_rate_limited"


async def test_5xx_are_tried_again_with_growing_waits_up_to_the_limit() -> None:
    slept: list[float] = []
    error = await failure_of(*[whole(500, {"error": "oops"})] * 4, slept=slept)
    assert error.code == "upstream_error"
    assert "oops" in error.detail
    assert len(slept) == 3
    assert all(base / 2 <= got <= base for base, got in zip([0.5, 1, 2], slept, strict=True))


async def test_a_500_and_then_a_200_is_an_answer() -> None:
    async with playing(whole(500, {}), stream(HELLO)) as (agent, _):
        assert await events_of(agent, turn_of()) == HELLO_EVENTS


async def test_a_connection_that_breaks_before_the_head_is_tried_again() -> None:
    async with playing([CUT], stream(HELLO)) as (agent, _):
        assert await events_of(agent, turn_of()) == HELLO_EVENTS


async def test_nothing_is_tried_again_once_the_answer_has_begun() -> None:
    async with playing([head(), CUT], stream(HELLO)) as (agent, server):
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
    assert caught.value.code == "upstream_incomplete"
    assert len(server.requests) == 1


async def test_an_unreachable_server_is_reported_without_its_address() -> None:
    with socket.socket() as taken:
        # Nobody listens there, and nobody else can.
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        agent = OpenAIAgent(
            "tiny",
            OpenAIQuery(base_url=f"http://127.0.0.1:{port}/v1", retries_max=0),
            api_key=None,
            event_bytes_max=EVENT_BYTES_MAX,
        )
        with pytest.raises(AgentError) as caught:
            await events_of(agent, turn_of())
        await agent.aclose()
    assert caught.value.code == "upstream_unreachable"
    assert "127.0.0.1" not in caught.value.detail


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_is_reported_without_the_servers_message(status: int) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {KEY[:6]}***"}}
    error = await failure_of(whole(status, body))
    assert error.code == "upstream_auth"
    assert KEY[:6] not in error.detail


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, {"error": {"message": "context too long"}}, "context too long"),
        (404, {"detail": "no such model"}, "no such model"),
        (422, {"detail": [{"loc": ["x"]}]}, "HTTP 422"),
        (400, "plain", "plain"),
    ],
)
async def test_other_refusals_are_reported_with_the_servers_message(
    status: int, body: object, words: str
) -> None:
    error = await failure_of(whole(status, body))
    assert error.code == "upstream_rejected"
    assert words in error.detail


async def test_an_error_page_is_neither_read_to_its_end_nor_repeated() -> None:
    page: Script = [head(400, "text/html"), *[chunk(b"<p>" * 10_000)] * 20, anyio.Event()]
    error = await failure_of(page)
    assert error.code == "upstream_rejected"
    assert "<p>" not in error.detail


async def test_a_redirect_is_not_followed() -> None:
    script = [head(302, location="http://127.0.0.1:1/"), END]
    assert (await failure_of(script)).code == "upstream_error"


async def test_many_turns_share_one_agent() -> None:
    async with playing(*[stream(HELLO)] * 20) as (agent, _), anyio.create_task_group() as tasks:

        async def ask() -> None:
            assert await events_of(agent, turn_of(said("user", "Hi"))) == HELLO_EVENTS

        for _ in range(20):
            tasks.start_soon(ask)


LONG_CALL = {"id": "a", "name": "look", "arguments": {"x" * 70_000: 1}}


@pytest.mark.parametrize(
    ("messages", "options", "is_short"),
    [
        ([said("user", "Hi")] * 100, {}, True),
        ([said("user", "Hi")] * 200, {}, False),
        ([said("user", "x" * 60_000)], {}, True),
        ([said("user", "x" * 70_000)], {}, False),
        ([said("user", [{"type": "image", "data": "x" * 70_000}])], {}, False),
        ([said("assistant", "", tool_calls=[LONG_CALL])], {}, False),
        ([said("user", "Hi", metadata={"x": [1] * 2_000})], {}, False),
        ([said("user", "Hi")], {"tools": [{"description": "x" * 70_000}]}, False),
        ([said("user", "Hi")], {"temperature": 1}, True),
    ],
)
async def test_only_a_short_request_is_encoded_on_the_event_loop(
    messages: list[Message], options: dict[str, Any], is_short: bool
) -> None:
    threads: list[int] = []
    async with playing(stream(HELLO)) as (agent, _):
        request = agent._request  # type: ignore[attr-defined]

        def watched(turn: Turn, images: Any) -> Any:
            threads.append(threading.get_ident())
            return request(turn, images)

        agent._request = watched  # type: ignore[attr-defined]
        assert await events_of(agent, turn_of(*messages, **options)) == HELLO_EVENTS
    assert (threads == [threading.get_ident()]) == is_short

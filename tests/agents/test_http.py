"""Agents in any language, against a scripted service on a real socket."""

import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import anyio
import pytest

from bamboo_gateway.agents.base import Agent, AgentConfigError, AgentError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.agents.http import HttpAgent, HttpQuery
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.errors import InvalidEvent
from bamboo_gateway.domain.events import (
    AgentEvent,
    Cancelled,
    Complete,
    Failed,
    MessageSaid,
    Thinking,
    Token,
    ToolComplete,
    ToolResult,
    ToolStart,
    Usage,
)
from bamboo_gateway.embedded import open_gateway
from bamboo_gateway.settings import Settings
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
    whole,
)
from tests.agents.turns import DEADLINE_SECONDS, events_of, let_pass, said, turn_of

SECRET = "hush-hush"
NDJSON = head(media_type="application/x-ndjson")
SETTINGS = Settings(max_event_bytes=4096, max_body_bytes=8192)


class StoppedClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        return 1_763_661_234_567

    def monotonic(self) -> float:
        return 0.0


SPOKEN: list[dict[str, Any]] = [
    {"type": "thinking", "content": "Hm\u2028"},
    {"type": "tool_start", "tool_call_id": "a", "tool_name": "look", "arguments": {"x": 1}},
    {
        "type": "tool_complete",
        "tool_call_id": "a",
        "result": {"success": True, "content": [1, 2]},
    },
    {"type": "token", "content": "Grüß dich 🎋"},
    {"type": "complete", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
]
HEARD: list[AgentEvent] = [
    Thinking("Hm\u2028"),
    ToolStart("a", "look", {"x": 1}),
    ToolComplete("a", ToolResult(True, [1, 2])),
    Token("Grüß dich 🎋"),
    Complete(Usage(1, 2, 3)),
]


def lines(values: list[dict[str, Any]], end: bytes = b"\n") -> bytes:
    # The JSON of one event never holds a line end, so its frame's data is its line.
    return b"".join(sse([value], done=False)[6:-2] + end for value in values)


@asynccontextmanager
async def playing(
    *scripts: Script, slept: list[float] | None = None, secret: str | None = None, **query: Any
) -> AsyncIterator[tuple[Agent, ScriptedServer]]:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    async with scripted(*scripts) as server:
        agent = HttpAgent(
            f"{server.url}/agent?tenant=1",
            HttpQuery(**query),
            secret=secret,
            settings=SETTINGS,
            session_answer=session_answer,
            clock=StoppedClock(),
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
    return caught.value


async def test_the_service_gets_the_tools_of_the_client() -> None:
    look: Any = {"name": "look", "parameters": {"type": "object"}}
    async with playing((head(), chunk(sse(SPOKEN)), END)) as (agent, server):
        await events_of(agent, replace(turn_of(), client_tools=(look,)))
    assert server.requests[0].json["client_tools"] == [look]


@pytest.mark.parametrize("done", [True, False])
async def test_events_are_read_from_an_event_stream(done: bool) -> None:
    assert await answer_to(head(), *bytewise(sse(SPOKEN, done=done)), END) == HEARD


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
async def test_events_are_read_from_ndjson(end: bytes) -> None:
    assert await answer_to(NDJSON, *bytewise(lines(SPOKEN, end)), END) == HEARD


async def test_the_last_line_needs_no_end() -> None:
    assert await answer_to(NDJSON, chunk(lines(SPOKEN).rstrip()), END) == HEARD


async def test_a_body_that_ends_without_a_terminal_event_has_completed() -> None:
    for body in (NDJSON, chunk(lines(SPOKEN[:4]))), (head(), chunk(sse(SPOKEN[:4]))):
        assert await answer_to(*body, END) == [*HEARD[:4], Complete()]


@pytest.mark.parametrize(
    ("answer", "events"),
    [
        ({"content": "Hi"}, [MessageSaid({"role": "assistant", "content": "Hi"}), Complete()]),
        (
            {
                "role": "assistant",
                "content": "Hi",
                "tool_calls": [{"id": "a", "name": "look", "arguments": {}}],
                "usage": SPOKEN[-1]["usage"],
            },
            [
                MessageSaid(
                    {
                        "role": "assistant",
                        "content": "Hi",
                        "tool_calls": [{"id": "a", "name": "look", "arguments": {}}],
                        "usage": SPOKEN[-1]["usage"],
                    }
                ),
                Complete(Usage(1, 2, 3), "tool_calls"),
            ],
        ),
        ({"type": "token", "content": "Hi"}, [Token("Hi"), Complete()]),
        ("Hi", [Token("Hi"), Complete()]),
        (SPOKEN, HEARD),
    ],
)
async def test_one_json_answer_is_a_message_an_event_or_a_list_of_events(
    answer: object, events: list[AgentEvent]
) -> None:
    assert await answer_to(*whole(200, answer)) == events


async def test_the_service_may_end_the_turn_as_failed_or_cancelled() -> None:
    for event, heard in (
        ({"type": "error", "message": "no luck", "code": "out_of_luck"}, Failed),
        ({"type": "cancelled", "reason": "enough"}, Cancelled),
    ):
        events = await answer_to(NDJSON, chunk(lines([SPOKEN[0], event, SPOKEN[3]])), END)
        assert [type(event) for event in events] == [Thinking, heard]


async def test_the_client_answers_calls_without_a_result_when_the_answer_just_ends() -> None:
    events = await answer_to(NDJSON, chunk(lines(SPOKEN[:2])), END)
    assert events[2:] == [Complete(finish_reason="tool_calls")]


async def test_the_request_holds_the_turn() -> None:
    async with playing(whole(200, "Hi")) as (agent, server):
        await events_of(agent, turn_of(said("user", "Hello"), style="brief"))
    request = server.requests[0]
    assert (request.method, request.path) == ("POST", "/agent?tenant=1")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "run_1"
    assert "bamboo-signature" not in request.headers
    assert request.json == {
        "version": 1,
        "run_id": "run_1",
        "session": {"id": "s-1", "metadata": {"plan": "free"}},
        "messages": [said("user", "Hello").to_json()],
        "options": {"style": "brief"},
    }


async def test_the_session_in_the_request_is_that_of_the_api() -> None:
    async with playing(whole(200, "Hi")) as (agent, server):
        turn = turn_of(said("user", "Hello"))
        session = {"id": "s-1", "stream_after": "1-4", "position": "1-9"}
        await events_of(agent, replace(turn, session=session))
    assert list(server.requests[0].json["session"].items()) == [
        ("id", "s-1"),
        ("stream_url", "/api/v1/stream/s-1?after=1-4"),
        ("position", "1-9"),
    ]


async def test_the_session_in_the_request_has_the_prefix_of_the_gateway() -> None:
    async with scripted(whole(200, "Hi")) as server:
        agents = {"default": f"{server.url}/agent"}
        async with open_gateway(storage_url="memory:", root_path="/a/b", agents=agents) as gateway:
            await gateway.chat("s-1", "Hello", wait_seconds=60)
    url = server.requests[0].json["session"]["stream_url"]
    assert url.startswith("/a/b/api/v1/stream/s-1?after=")


async def test_the_request_is_signed_when_there_is_a_secret() -> None:
    async with playing(whole(200, "Hi"), secret=SECRET) as (agent, server):
        await events_of(agent, turn_of())
    request = server.requests[0]
    assert request.headers["bamboo-timestamp"] == "1763661234"
    expected = hmac.new(SECRET.encode(), b"1763661234." + request.body, "sha256").hexdigest()
    assert request.headers["bamboo-signature"] == f"v1={expected}"


@pytest.mark.parametrize(
    "bad", [b'{"type":"banana"}', b'{"type":"token"}', b"5", b'{"type":"token","content":1}']
)
async def test_a_broken_event_ends_the_turn(bad: bytes) -> None:
    async with playing([NDJSON, chunk(lines(SPOKEN[:1]) + bad + b"\n"), END]) as (agent, _):
        with pytest.raises(InvalidEvent):
            await events_of(agent, turn_of())


@pytest.mark.parametrize(
    ("code", "script"),
    [
        ("upstream_invalid", [NDJSON, chunk(b"{x\n"), END]),
        ("upstream_invalid", [NDJSON, chunk(b"x" * 5000), END]),
        ("upstream_invalid", [head(), chunk(b"data: {x\n\n"), END]),
        ("upstream_invalid", [head(), chunk(b"data: " + b"x" * 5000), END]),
        ("upstream_invalid", [head(media_type="text/html"), chunk(b"<p>"), END]),
        ("upstream_invalid", whole(200, "x" * 10_000)),
        ("upstream_incomplete", [NDJSON, chunk(b'{"type":"tok'), END]),
        ("upstream_incomplete", [NDJSON, chunk(lines(SPOKEN[:2])), CUT]),
        ("upstream_incomplete", [head(), chunk(b'data: {"type":"tok'), END]),
        ("upstream_rejected", whole(422, {"detail": "no such tenant"})),
        ("upstream_auth", whole(401, {})),
        ("upstream_error", whole(500, {})),
    ],
)
async def test_an_answer_that_cannot_be_read_ends_the_turn_with_its_code(
    code: str, script: Script
) -> None:
    error = await failure_of(script)
    assert error.code == code
    assert "agent" in error.detail


@pytest.mark.parametrize(
    "script",
    [[NDJSON, END], [head(), chunk(b"data: [DONE]\n\n"), END], whole(200, [])],
    ids=["ndjson", "sse", "json"],
)
async def test_an_empty_answer_completes(script: Script) -> None:
    assert await answer_to(*script) == [Complete()]


async def test_without_length_or_chunks_only_a_terminal_event_is_an_end() -> None:
    bare = NDJSON.replace(b"Transfer-Encoding: chunked", b"connection: close")
    assert (await failure_of([bare, lines(SPOKEN[:4])])).code == "upstream_incomplete"
    assert await answer_to(bare, lines(SPOKEN)) == HEARD


async def test_a_silence_is_a_timeout() -> None:
    script: Script = [NDJSON, chunk(lines(SPOKEN[:1])), anyio.Event()]
    assert (await failure_of(script, idle_timeout_seconds=0.05)).code == "upstream_timeout"


async def test_an_answer_that_does_not_begin_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        playing([anyio.Event()], first_byte_timeout_seconds=20) as (agent, server),
        anyio.create_task_group() as tasks,
    ):

        async def ask() -> None:
            with pytest.raises(AgentError, match="in time") as caught:
                await events_of(agent, turn_of())
            assert caught.value.code == "upstream_timeout"

        tasks.start_soon(ask)
        await server.requested.wait()
        let_pass(21, monkeypatch)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_a_service_that_did_not_begin_the_work_is_asked_again(status: int) -> None:
    slept: list[float] = []
    refusal = whole(status, {}, retry_after="2")
    async with playing(refusal, whole(200, "Hi"), slept=slept) as (agent, server):
        assert await events_of(agent, turn_of()) == [Token("Hi"), Complete()]
    assert slept == [2]
    assert [r.headers["idempotency-key"] for r in server.requests] == ["run_1"] * 2
    assert server.connections == 2


@pytest.mark.parametrize("script", [[CUT], whole(500, {}), [NDJSON, CUT]])
async def test_a_service_that_may_have_begun_the_work_is_not_asked_again(script: Script) -> None:
    async with playing(script, whole(200, "Hi")) as (agent, server):
        with pytest.raises(AgentError):
            await events_of(agent, turn_of())
    assert len(server.requests) == 1


async def test_cancelling_closes_the_request() -> None:
    script: Script = [NDJSON, chunk(lines(SPOKEN[:1])), anyio.Event()]
    async with playing(script) as (agent, server):
        with anyio.fail_after(DEADLINE_SECONDS):
            async with anyio.create_task_group() as tasks:
                heard = anyio.Event()

                async def hear() -> None:
                    async for _ in agent.run(turn_of()):
                        heard.set()

                tasks.start_soon(hear)
                await heard.wait()
                tasks.cancel_scope.cancel()
            await server.left.wait()


async def test_the_agents_own_members_of_the_query_are_taken_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGENT_SECRET", SECRET)
    async with scripted(whole(200, "Hi")) as server:
        url = f"{server.url}/a%20b?tag=1&secret_env=AGENT_SECRET&tag=2&retries_max=0&flag"
        agent = make_agent("helper", url, SETTINGS, session_answer)
        await events_of(agent, turn_of())
        await agent.aclose()
    assert server.requests[0].path == "/a%20b?tag=1&tag=2&flag"
    assert server.requests[0].headers["bamboo-signature"].startswith("v1=")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http:", "http(s)"),
        ("http://", "http(s)"),
        ("https://me:secret@host/", "name or password"),
        ("http://host:0x/", "URL"),
        ("http://host/?secret_env=MISSING", "secret_env names is not set"),
        ("http://host/?secret_env=s-e-c-r-e-t", "secret_env"),
        ("http://host/?retries_max=many", "retries_max"),
        ("http://host/?retries_max=1&retries_max=2", "twice"),
    ],
)
def test_what_cannot_be_used_stops_the_start(url: str, words: str) -> None:
    with pytest.raises(AgentConfigError) as caught:
        make_agent("helper", url, SETTINGS, session_answer)
    assert words in caught.value.detail
    assert "s-e-c-r-e-t" not in caught.value.detail
    assert "me:secret" not in caught.value.detail

"""`openai:` against a server that others wrote: LiteLLM's proxy, which checks and relays.

Its own mock models answer, fail and refuse without any network; the model `relay` passes requests
on to our scripted server, so that LiteLLM reads the history that the gateway sends, and says the
answer again in its own way.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.agents.base import Agent, AgentError
from bamboo_gateway.agents.openai import OpenAIAgent, OpenAIQuery
from bamboo_gateway.domain.events import AgentEvent, Complete, Token
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from tests.agents.scripted_server import scripted, stream
from tests.agents.test_openai import HELLO, call, delta
from tests.agents.turns import events_of, said, turn_of
from tests.processes import REPOSITORY, environment, free_port, lacking
from tests.support.clients import local_client
from tests.support.gateways import ME, gateway
from tests.support.waiting import until

# Its imports alone take a minute on a busy machine.
pytestmark = [pytest.mark.external_service, pytest.mark.timeout(500)]

# Where `.ci/run` installs requirements.txt: a world of its own, in nobody's way.
LITELLM = REPOSITORY / ".venv" / "litellm" / "bin" / "litellm"
KEY = "sk-of-the-proxy"
START_SECONDS = 240

CONFIG = """
model_list:
  - model_name: speaks
    litellm_params: {model: openai/gpt-4o-mini, api_key: none, mock_response: "Grüß dich 🎋"}
  - model_name: limited
    litellm_params:
      {model: openai/gpt-4o-mini, api_key: none, mock_response: "litellm.RateLimitError"}
  - model_name: broken
    litellm_params:
      {model: openai/gpt-4o-mini, api_key: none, mock_response: "litellm.InternalServerError"}
  - model_name: relay
    litellm_params: {model: openai/tiny, api_key: none, api_base: "http://127.0.0.1:RELAY/v1"}
general_settings: {master_key: KEY}
litellm_settings: {num_retries: 0, telemetry: false}
router_settings: {num_retries: 0, disable_cooldowns: true}
"""


@pytest.fixture(scope="module")
def relay_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, relay_port: int) -> Iterator[str]:
    """The address of a running proxy."""
    if not LITELLM.exists():
        lacking("LiteLLM in .venv/litellm (tests/agents/litellm/requirements.txt)")
    folder: Path = tmp_path_factory.mktemp("litellm")
    config = folder / "config.yaml"
    config.write_text(CONFIG.replace("RELAY", str(relay_port)).replace("KEY", KEY), "utf-8")
    url = f"http://127.0.0.1:{(port := free_port())}"
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [LITELLM, "--config", config, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment(**offline),
            stdout=log,
            stderr=log,
        )
    try:
        with local_client(base_url=url) as http:
            until(
                lambda: _is_alive(process, http),
                lambda: "LiteLLM answers: " + (folder / "log").read_text("utf-8")[-2000:],
                START_SECONDS,
            )
        yield url
    finally:
        process.kill()
        process.wait(20)


def _is_alive(process: "subprocess.Popen[bytes]", http: httpx.Client) -> bool:
    assert process.poll() is None, "LiteLLM has ended"
    try:
        return http.get("/health/liveliness").is_success
    except httpx.TransportError:
        return False


def agent_of(proxy: str, model: str, key: str = KEY) -> OpenAIAgent:
    async def no_wait(_: float) -> None:
        pass

    query = OpenAIQuery(base_url=f"{proxy}/v1", retries_max=1)
    return OpenAIAgent(model, query, api_key=key, event_bytes_max=100_000, sleep=no_wait)


async def answer(agent: Agent, *messages: Any, **options: Any) -> list[AgentEvent]:
    try:
        return await events_of(agent, turn_of(*messages, **options))
    finally:
        await agent.aclose()


async def test_its_stream_is_read_to_the_usage(proxy: str) -> None:
    *words, end = await answer(agent_of(proxy, "speaks"), said("user", "Hi"), temperature=0.5)
    assert "".join(word.content for word in words if isinstance(word, Token)) == "Grüß dich 🎋"
    assert isinstance(end, Complete)
    assert end.finish_reason == "stop"
    assert end.usage is not None
    assert end.usage.total_tokens == end.usage.prompt_tokens + end.usage.completion_tokens > 2


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        ("limited", "upstream_rate_limited", "mock rate limit"),
        ("broken", "upstream_error", "mock internal server"),
        ("nobody", "upstream_rejected", "nobody"),
    ],
)
async def test_its_refusals_are_reported_with_its_message(
    model: str, code: str, words: str, proxy: str
) -> None:
    with pytest.raises(AgentError) as caught:
        await answer(agent_of(proxy, model))
    assert caught.value.code == code
    assert words in caught.value.detail
    assert KEY not in caught.value.detail


async def test_a_wrong_key_does_not_get_in(proxy: str) -> None:
    with pytest.raises(AgentError) as caught:
        await answer(agent_of(proxy, "speaks", "sk-wrong"))
    assert caught.value.code in {"upstream_auth", "upstream_rejected"}


async def test_client_tools_and_the_history_they_make_go_through_it(
    proxy: str, relay_port: int
) -> None:
    calls = [
        delta(role="assistant", content=None),
        delta(tool_calls=[call(0, "look", id="call_a"), call(1, "listen", id="call_b")]),
        delta(tool_calls=[call(1, "", "{}"), call(0, "", '{"at":')]),
        delta(tool_calls=[call(0, "", '"the sky"}')]),
        delta("tool_calls"),
    ]
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("look", "listen")
    ]
    image = {"type": "image", "data": "QUJD", "media_type": "image/png"}
    async with (
        scripted(stream(calls), stream(HELLO), port=relay_port) as upstream,
        gateway(agents={"relay": agent_of(proxy, "relay")}) as gate,
    ):
        session = NewSession(id="s")
        content = [{"type": "text", "text": "What is this?"}, image]
        options = {"tools": tools}
        chat = Chat(session, [NewMessage("user", content)], "relay", options, "first")
        await gate.manager.chat(ME, chat)
        run = await gate.ended("first")
        assert (run["status"], run["finish_reason"]) == ("completed", "tool_calls"), run["error"]
        results = [
            NewMessage("tool", "blue", tool_call_id="call_a"),
            NewMessage("tool", "birds", tool_call_id="call_b"),
        ]
        await gate.manager.chat(ME, Chat(session, results, "relay", options, "next"))
        run = await gate.ended("next")
        assert run["status"] == "completed", run["error"]
        starts = [event for event in await gate.log() if event["type"] == "tool_start"]
        assert [(start["tool_name"], start["arguments"]) for start in starts] == [
            ("look", {"at": "the sky"}),
            ("listen", {}),
        ]
        assert (await gate.messages())[-1]["content"] == "Grüß dich 🎋\u2028"
        asked = upstream.requests[1].json["messages"]
        assert [message["role"] for message in asked] == ["user", "assistant", "tool", "tool"]
        assert asked[0]["content"][1]["image_url"]["url"] == "data:image/png;base64,QUJD"
        await gate.manager._agents["relay"].aclose()

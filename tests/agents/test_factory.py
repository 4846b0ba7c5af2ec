"""Agents are made from URLs; a URL that cannot be used is one line."""

import pytest

from bamboo_gateway.agents.base import AgentConfigError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.settings import Settings


def refusal_of(url: str) -> str:
    with pytest.raises(AgentConfigError) as caught:
        make_agent("helper", url, Settings(), session_answer)
    assert "\n" not in caught.value.detail
    assert "'helper'" in caught.value.detail
    return caught.value.detail


async def test_the_key_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    await make_agent("helper", "openai:gpt-x", Settings(), session_answer).aclose()
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OTHER_KEY", "sk-2")
    url = "openai:org/model:7b?api_key_env=OTHER_KEY&temperature=0.2&stream_usage=false"
    await make_agent("helper", url, Settings(), session_answer).aclose()


async def test_a_server_of_ones_own_needs_no_key() -> None:
    await make_agent(
        "helper", "openai:tiny?base_url=http://127.0.0.1:1/v1", Settings(), session_answer
    ).aclose()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("openai:", "no model"),
        ("openai:gpt-x", "OPENAI_API_KEY is not set"),
        ("openai:gpt-x?api_key_env=MISSING", "api_key_env names is not set"),
        ("openai:gpt-x?api_key_env=sk-secret", "api_key_env"),
        ("openai:gpt-x?base_url=ftp://x", "http(s)"),
        ("openai:gpt-x?base_url=http://", "http(s)"),
        ("openai:gpt-x?base_url=http://me:secret@x/", "name or password"),
        ("openai:gpt-x?base_url=http://x/v1%3Fsecret", "a query"),
        ("openai:gpt-x?base_url=http://x:99999999/", "port"),
        ("openai:gpt-x?temperature=hot", "temperature"),
        ("openai:gpt-x?idle_timeout_seconds=0", "idle_timeout_seconds"),
        (
            "openai:gpt-x?tempreature=1",
            "'tempreature' is not known here; did you mean 'temperature'?",
        ),
        ("python:m:f?thread_max=3", "did you mean 'threads_max'?"),
        (
            "python:m:f?qqqq=3",
            "query: 'qqqq' is not known here. "
            "Known are: allow, coalesce, description, threads_max.",
        ),
        (
            "demo:?delay=secret",
            "did you mean 'delay_ms'? Known are: allow, ask, client_tool, coalesce, delay_ms, ",
        ),
        (
            "gpt-4o",
            "no kind; use demo:, openai:, python:, http:, https:, agui+http: or agui+https:",
        ),
        ("teapot:", "no known kind; use demo:, openai:, python:, http:, https:, agui+http: or"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, words: str) -> None:
    detail = refusal_of(url)
    assert words in detail
    assert "secret" not in detail


@pytest.mark.parametrize("key", ["with space", "line\nbreak", "grüße"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_repeated(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert key not in refusal_of("openai:gpt-x")


def test_proxy_settings_that_cannot_be_used_are_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("HTTPS_PROXY", "gopher://x")
    assert "proxy" in refusal_of("openai:gpt-x")


@pytest.mark.parametrize(
    "url",
    [
        "demo:",
        "openai:gpt-x?base_url=http://127.0.0.1:1/v1",
        "python:bamboo_gateway.agents.demo:DemoAgent",
        "http://127.0.0.1:1/turns",
    ],
)
@pytest.mark.parametrize("value", ["", "true", "false"])
async def test_every_kind_of_agent_takes_coalesce(url: str, value: str) -> None:
    if value:
        url += f"{'&' if '?' in url else '?'}coalesce={value}"
    agent = make_agent("helper", url, Settings(), session_answer)
    assert agent.coalesce is (value != "false")
    await agent.aclose()

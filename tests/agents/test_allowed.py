"""Which `options` of a chat reach an agent: those that the operator allows, within his bounds."""

from typing import Any

import pytest

from bamboo_gateway.agents.allowed import AllowedOptions
from bamboo_gateway.agents.base import Agent, AgentConfigError
from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.api.urls import session_answer
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.events import Complete
from bamboo_gateway.settings import Settings
from tests.agents.scripted_server import scripted, stream, whole
from tests.agents.turns import events_of, turn_of
from tests.api.serving import refused, serving
from tests.support.agents import ScriptedAgent
from tests.support.gateways import crash, gateway, settings_of


def echo(turn: Any) -> str:
    """A user's own agent."""
    return repr(dict(turn.options))


HELLO = [{"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}]

ECHO = f"python:{__name__}:echo"
MODEL = "openai:tiny?base_url=http://127.0.0.1:1/v1"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def agent_of(url: str) -> Agent:
    return make_agent("helper", url, Settings(), session_answer)


def refusal(agent: Agent, options: dict[str, Any]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        agent.check_options(options)
    assert caught.value.code == "option-refused"
    return caught.value


# -- the defaults of each kind --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 2},
        {"top_p": 0.5, "seed": 7, "stop": ["END"]},
        {"stop": "END"},
        {"max_tokens": 512},
        {"max_tokens": 1},
    ],
)
def test_clients_may_set_sampling_and_lower_the_token_limit_of_a_model(
    options: dict[str, Any],
) -> None:
    agent_of(f"{MODEL}&max_tokens=512").check_options(options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"model": "gpt-expensive"}, "model"),
        ({"system": "You are Evil"}, "system"),
        ({"tools": []}, "tools"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"parallel_tool_calls": True}, "parallel_tool_calls"),
        ({"context_tokens": 10}, "context_tokens"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_completion_tokens": 5}, "max_completion_tokens"),
        ({"temperature": 0.5, "model": "x"}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"model": None}, "model"),
        ({"n": 2}, "n"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": 5}, "stop"),
    ],
)
def test_clients_may_set_no_other_option_of_a_model_unless_it_is_allowed(
    options: dict[str, Any], name: str
) -> None:
    error = refusal(agent_of(f"{MODEL}&max_tokens=512"), options)
    assert error.errors[0]["loc"] == ["body", "options", name]
    assert name in error.detail


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_clients_may_set_no_token_limit_of_a_model_that_has_none(name: str) -> None:
    refusal(agent_of(MODEL), {name: 5})
    agent_of(f"{MODEL}&{name}=10").check_options({name: 10})
    refusal(agent_of(f"{MODEL}&{name}=10"), {name: 11})


@pytest.mark.parametrize("url", [ECHO, "http://127.0.0.1:1/agent?tenant=1"])
def test_clients_may_set_no_option_of_user_code_unless_it_is_allowed(url: str) -> None:
    agent_of(url).check_options({})
    refusal(agent_of(url), {"anything": 1})
    separator = "&" if "?" in url else "?"
    opened = agent_of(f"{url}{separator}allow=language:en|de,depth:1..3")
    opened.check_options({"language": "de", "depth": 3})
    for wrong in ({"language": "fr"}, {"depth": 4}, {"depth": "2"}, {"style": "brief"}):
        refusal(opened, wrong)
    agent_of(f"{url}{separator}allow=*").check_options({"anything": [1]})


def test_clients_may_set_all_options_of_the_demo() -> None:
    agent_of("demo:").check_options({"delay_ms": 0, "text": "x", "hold": "middle"})
    refusal(agent_of("demo:"), {"base_url": "http://x"})
    refusal(agent_of("demo:?allow=text"), {"delay_ms": 0})
    refusal(agent_of("demo:?allow="), {"text": "x"})


# -- what the operator writes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "taken", "not_taken"),
    [
        ("temperature:0..1", [{"temperature": 0}, {"temperature": 1.0}], [{"temperature": 1.01}]),
        ("max_tokens:..4096", [{"max_tokens": 4096}], [{"max_tokens": 4097}]),
        ("max_tokens:100..", [{"max_tokens": 100}], [{"max_tokens": 99}]),
        ("temperature:0.5..1.5", [{"temperature": 1.5}], [{"temperature": 0.49}]),
        ("seed:-5..5", [{"seed": -5}], [{"seed": -6}]),
        ("model:tiny|org/large:7b", [{"model": "org/large:7b"}], [{"model": "other"}]),
        ("parallel_tool_calls:false", [{"parallel_tool_calls": False}], [
            {"parallel_tool_calls": True}]),
        ("system,tools", [{"system": "x"}], [{"temperature": 1}]),
        (" temperature , top_p ", [{"top_p": 1}], [{"seed": 1}]),
        ("*", [{"model": "x", "tools": []}], [{"n": 2}]),
        ("*,max_tokens:..5", [{"model": "x", "max_tokens": 5}], [{"max_tokens": 6}]),
        ("", [{}], [{"temperature": 1}]),
    ],
)  # fmt: skip
def test_allow_names_options_and_their_bounds(
    allow: str, taken: list[dict[str, Any]], not_taken: list[dict[str, Any]]
) -> None:
    agent = agent_of(f"{MODEL}&allow={allow}")
    for options in taken:
        agent.check_options(options)
    for options in not_taken:
        refusal(agent, options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_outside_its_bounds_is_refused(value: float) -> None:
    allowed = AllowedOptions.parse("x:..5,y:1..")
    for name in "xy":
        with pytest.raises(InvalidInput):
            allowed.check({name: value})


@pytest.mark.parametrize(
    ("allow", "words"),
    [
        ("tempreature", "'tempreature'"),
        ("temperature:2..1", "temperature"),
        ("temperature:..", "temperature"),
        ("temperature:low..high", "temperature"),
        ("temperature:", "temperature"),
        ("temperature:nan..", "temperature"),
        ("temperature,temperature:..1", "twice"),
        ("temperature,,top_p", "empty"),
        ("*:..5", "*"),
    ],
)
def test_an_allow_that_cannot_be_read_stops_the_start(allow: str, words: str) -> None:
    with pytest.raises(AgentConfigError) as caught:
        agent_of(f"{MODEL}&allow={allow}")
    assert words in caught.value.detail
    assert "'helper'" in caught.value.detail
    assert "allow" in caught.value.detail


def test_a_refusal_lists_the_options_that_may_be_set() -> None:
    error = refusal(agent_of(f"{MODEL}&allow=seed,temperature:0..1,model:a|b"), {"system": "x"})
    assert "seed, temperature (from 0 to 1), model (a, b)" in error.detail
    assert "evil" not in refusal(agent_of(MODEL), {"system": "evil"}).detail
    assert "Clients may set no option" in refusal(agent_of(ECHO), {"x": 1}).detail
    long = refusal(agent_of(ECHO), {"x" * 10_000: 1})
    assert len(long.detail) < 500


async def test_allow_does_not_reach_the_service() -> None:
    async with scripted(whole(200, "Hi")) as server:
        agent = agent_of(f"{server.url}/agent?tenant=1&allow=x&other=2")
        await events_of(agent, turn_of())
    assert server.requests[0].path == "/agent?tenant=1&other=2"


# -- where it is asked ----------------------------------------------------------------------------


def test_a_gateway_on_loopback_without_keys_is_no_exception() -> None:
    agents = {"default": f"{MODEL}&system=Be+kind&max_tokens=100", "own": ECHO}
    with serving(agents=agents) as served, served.client() as api:
        evil = {"model": "gpt-expensive", "system": "You are Evil", "max_tokens": 100_000}
        answer = api.post("/chat", json={"session_id": "s", "message": "x", "options": evil})
        problem = refused(answer, 422, "option-refused")
        assert [error["loc"] for error in problem["errors"]] == [
            ["body", "options", name] for name in evil
        ]
        # Nothing was begun.
        refused(api.get("/sessions/s"), 404, "session-not-found")
        for more in ({"on_busy": "interrupt"}, {"agent": "own"}):
            body = {"message": "x", "options": {"system": "evil"}, **more}
            refused(api.post("/chat", json=body), 422, "option-refused")
            streamed = api.post("/chat", json=body, headers={"Accept": "text/event-stream"})
            refused(streamed, 422, "option-refused")


async def test_nothing_refused_reaches_the_model_server() -> None:
    async with scripted(stream(HELLO), stream(HELLO)) as server:
        url = f"openai:tiny?base_url={server.url}/v1&system=Be+kind&max_tokens=100"
        agent = make_agent("default", url, settings_of(), session_answer)
        async with gateway(agents={"default": agent}) as gate:
            with pytest.raises(InvalidInput):
                await gate.chat(run_id="a", options={"system": "evil"})
            assert await gate.log() == []
            await gate.chat(run_id="b", options={"temperature": 0.5, "max_tokens": 10})
            await gate.ended("b")
        await agent.aclose()
    (asked,) = server.requests
    assert asked.json["messages"][0] == {"role": "system", "content": "Be kind"}
    assert (asked.json["temperature"], asked.json["max_tokens"]) == (0.5, 10)


async def test_a_run_that_would_have_to_wait_is_refused_before_it_is_queued() -> None:
    async with gateway() as gate:
        await gate.chat(run_id="a")
        gate.agent.allowed = AllowedOptions.parse("depth:..3")
        with pytest.raises(InvalidInput):
            await gate.chat(run_id="b", options={"depth": 4})
        await gate.chat(run_id="c", options={"depth": 3})
        assert [event["run_id"] for event in await gate.log() if "queued" in event["type"]] == ["c"]
        gate.agent.do("a", Complete())
        gate.agent.do("c", Complete())
        await gate.ended("c")


async def test_a_run_queued_before_a_restart_is_checked_against_the_options_allowed_now() -> None:
    async with gateway() as gate:
        await gate.chat(run_id="a")
        await gate.chat(run_id="b", options={"system": "evil"})
        await gate.chat(run_id="c", options={"depth": 1})
        left = await crash(gate)
        gate.store.release_appends()  # what is left has been copied: the end need not wait
    narrowed = ScriptedAgent()
    narrowed.allowed = AllowedOptions.parse("depth")
    async with gateway(left, agents={"default": narrowed}) as gate:
        narrowed.script("c").do(Complete())
        await gate.ended("c")
        ended = await gate.ended("b")
        assert (ended["status"], ended["error"]["code"]) == ("failed", "option_refused")
        assert "system" in ended["error"]["message"]
        assert narrowed.asked == ["c"]

"""`GET /agents`, lists by metadata, titles, previews and budgets over HTTP."""

from typing import Any

import httpx
import jsonschema
import pytest

from tests.api.serving import refused, serving

AGENTS = {
    "default": "demo:?delay_ms=0",
    "small": "openai:small-model?api_key_env=TEST_KEY&base_url=http://127.0.0.1:9/v1"
    "&allow=temperature:0..1,model:a|b&description=Short+answers.",
    "code": "python:tests.api.test_agents:answer?allow=*",
    "service": "http://127.0.0.1:9/private-path?token=hidden&allow=lang:de|en",
}


async def answer(turn: Any) -> str:
    """Answer politely.

    This line is for those who read the code.
    """
    return f"Yes, {turn.run_id}."


def test_agents_are_listed_with_what_a_chat_may_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    with serving(agents=AGENTS) as served, served.client() as api:
        found = api.get("/agents")
        agents = {agent["name"]: agent for agent in found.json()["agents"]}
    assert list(agents) == sorted(AGENTS)
    shown = {name: (one["kind"], one["model"], one["description"]) for name, one in agents.items()}
    assert shown["small"] == ("openai", "small-model", "Short answers.")
    assert shown["code"] == ("python", None, "Answer politely.")
    assert shown["service"] == ("http", None, None)
    assert shown["default"][0] == "demo"
    assert [name for name, one in agents.items() if one["is_default"]] == ["default"]
    for secret in ("sk-very-secret", "127.0.0.1", "private-path", "hidden", "TEST_KEY"):
        assert secret not in found.text
    properties = agents["small"]["options"]["properties"]
    assert properties["temperature"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert properties["model"]["enum"] == ["a", "b"]
    assert agents["service"]["options"]["properties"] == {"lang": {"enum": ["de", "en"]}}
    assert agents["code"]["options"]["additionalProperties"] is True


@pytest.mark.parametrize(
    "options",
    [
        {}, {"temperature": 0.5}, {"temperature": 2}, {"temperature": "x"}, {"model": "a"},
        {"model": "c"}, {"top_p": 1}, {"stop": ["x"]}, {"temperature": 1, "model": "b"},
    ],
)  # fmt: skip
def test_the_schema_of_options_says_what_a_chat_is_refused_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")
    with serving(agents=AGENTS) as served, served.client() as api:
        agents = api.get("/agents").json()["agents"]
        schema = next(one["options"] for one in agents if one["name"] == "small")
        chat = {"message": "Hi", "agent": "small", "options": options}
        status = api.post("/chat", json=chat).status_code
    fits = jsonschema.Draft202012Validator(schema).is_valid(options)
    assert (status == 202) is fits


def test_a_list_shows_title_and_preview_without_any_work_of_the_client(
    api: httpx.Client, free_id: str
) -> None:
    chat = {"session_id": free_id, "message": "How\n do I  bake bread?", "options": {"text": "So."}}
    prefer = {"Prefer": "wait=60"}
    assert api.post("/chat", json=chat, headers=prefer).json()["status"] == "completed"
    page = api.get("/sessions", params={"id_prefix": free_id}).json()
    [session] = page["sessions"]
    assert session["title"] == "How do I bake bread?"
    assert session["preview"] == "So."
    api.post(f"/sessions/{free_id}/archive")
    [archived] = api.get("/archive", params={"id_prefix": free_id}).json()["archives"]
    assert archived["session"]["preview"] == "So."


@pytest.fixture
def tagged(api: httpx.Client, free_id: str) -> str:
    for name, metadata in {
        "a": {"project": "bamboo", "n": 3, "on": True, "none": None, "list": [1]},
        "b": {"project": "bamboo", "n": "3", "a.b": "dotted"},
        "c": {"project": "other", "n": 3.5},
        "d": {},
    }.items():
        body = {"id": f"{free_id}-{name}", "metadata": metadata}
        assert api.post("/sessions", json=body).status_code == 201
    return free_id


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"metadata.project": "bamboo"}, "ab"),
        ({"metadata.project": "bamboo", "metadata.n": "3"}, "ab"),
        ({"metadata.n": "3.5"}, "c"),
        ({"metadata.on": "true"}, "a"),
        ({"metadata.none": "null"}, "a"),
        ({"metadata.list": "[1]"}, ""),
        ({"metadata.a.b": "dotted"}, "b"),
        ({"metadata.missing": ""}, ""),
        ({"metadata.project": "BAMBOO"}, ""),
    ],
)
def test_sessions_are_listed_by_their_metadata(
    api: httpx.Client, tagged: str, query: dict[str, str], names: str
) -> None:
    found = api.get("/sessions", params={"id_prefix": tagged, **query}).json()
    assert sorted(one["id"][-1] for one in found["sessions"]) == sorted(names)
    assert found["total"] == len(names)
    for one in found["sessions"]:
        api.post(f"/sessions/{one['id']}/archive")
    found = api.get("/archive", params={"id_prefix": tagged, **query}).json()
    assert sorted(one["session"]["id"][-1] for one in found["archives"]) == sorted(names)


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"metadata.k{number}=x" for number in range(6)),
        "metadata.k=x&metadata.k=y",
        "metadata.=x",
        "metadata=x",
        "metadatak=x",
        "metadata.k=%00",
        f"metadata.k={'x' * 1001}",
    ],
)
def test_other_filters_by_metadata_are_refused(api: httpx.Client, query: str) -> None:
    refused(api.get(f"/sessions?{query}"), 422, "invalid")


def test_a_spent_budget_is_answered_with_the_time_until_the_day_ends() -> None:
    with serving(max_tokens_per_user_day=1) as served, served.client() as api:
        wait = {"Prefer": "wait=60"}
        assert api.post("/chat", json={"message": "Hi"}, headers=wait).status_code == 200
        answer = api.post("/chat", json={"message": "Hi"})
        refused(answer, 429, "budget-reached")
        assert 0 < int(answer.headers["Retry-After"]) <= 86_400
        assert "bamboo_budget_refusals_total 1" in api.get("/metrics").text

"""The official clients of five releases, unchanged: whatever is cut, they end with the log's truth.

R2: after every frame of each conversation the connection is cut and the page is loaded again. At
the end the client has the messages that a page loads: none is missing, and none is there twice.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.serving import Served, serving
from tests.wires.ai_sdk.client import AGENT, CLIENTS, V5, Job, plain, speak

CONVERSATIONS = (
    "text",
    "thinking",
    "tools",
    "tool errors",
    "steps",
    "whole",
    "unicode",
    "data",
    "nothing",
    "only data",
    "failed",
    "failed at once",
    "picture",
    "client tool",
    "approval",
    "approved page",
    "question",
)
FRAMES = 34
"""More than any of these conversations has in one answer."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Served]:
    with serving(agents=AGENT, access_log=False) as served:
        yield served


def _known_to(version: str) -> list[str]:
    """The conversations that a client can end: version 5 knows no approval of its own tools."""
    left_out = {"approved page"} if CLIENTS[version] == V5 else set()
    return [name for name in CONVERSATIONS if name not in left_out]


def _texts(message: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in message["parts"])


def _check(result: dict[str, Any], name: str) -> None:
    assert plain(result["messages"]) == plain(result["loaded"]), result["name"]
    failed = "failed" in name and "The model" not in "".join(result["errors"])
    others = [one for one in result["errors"] if "network" not in one and "The model" not in one]
    assert others == [], result["name"]
    if failed and "cut" not in result["name"]:
        pytest.fail(f"{result['name']}: the client was not told of the error")


def test_each_conversation_ends_with_the_messages_that_a_page_loads(gateway: Served) -> None:
    jobs = [
        Job(f"{version}/{name}", version, f"whole-{number}-{place}", [name])
        for number, version in enumerate(CLIENTS)
        for place, name in enumerate(_known_to(version))
    ]
    results = speak(gateway.url, jobs)
    for job in jobs:
        _check(results[job.name], job.texts[0])
        roles = [one["role"] for one in results[job.name]["messages"]]
        silent = {"nothing", "only data", "failed at once"}
        assert roles == (["user"] if job.texts[0] in silent else ["user", "assistant"]), job.name


@pytest.mark.parametrize("version", CLIENTS)
def test_a_page_that_is_loaded_after_any_frame_has_the_answer_once(
    gateway: Served, version: str
) -> None:
    jobs = [
        Job(f"cut {name}/{cut}", version, f"cut-{version}-{place}-{cut}", [name], [cut])
        for place, name in enumerate(("thinking", "tools", "data", "failed", "client tool"))
        for cut in range(FRAMES // 2)
    ]
    results = speak(gateway.url, jobs)
    for job in jobs:
        _check(results[job.name], job.texts[0])


@pytest.mark.slow
@pytest.mark.parametrize("version", CLIENTS)
def test_every_conversation_survives_two_cuts_anywhere(gateway: Served, version: str) -> None:
    jobs = [
        Job(
            f"cut {name}/{cut}/{again}",
            version,
            f"two-{version}-{place}-{cut}-{again}",
            [name],
            [cut, again],
        )
        for place, name in enumerate(_known_to(version))
        for cut in range(FRAMES)
        for again in (3,)
    ]
    results = speak(gateway.url, jobs)
    for job in jobs:
        _check(results[job.name], job.texts[0])


def test_several_turns_another_answer_and_an_edit(gateway: Served) -> None:
    jobs = [
        Job(version, version, f"turns-{version}", texts)
        for version in CLIENTS
        for texts in [["one", "tools", "#regenerate", "two", "#edit three", "#edit four", "five"]]
    ]
    results = speak(gateway.url, jobs)
    with gateway.client() as api:
        for job in jobs:
            result = results[job.name]
            _check(result, "")
            said = [_texts(one) for one in result["messages"]]
            assert said == [
                "one",
                "You said: one",
                "tools",
                "I look.Both known.",
                "four",
                "You said: four",
                "five",
                "You said: five",
            ]
            branches = api.get(f"/sessions/{job.session}/branches").json()["branches"]
            assert len(branches) == 4  # the first, another answer, two edits
            ids = [one["id"] for one in result["messages"]]
            assert len(set(ids)) == len(ids)


def test_the_page_runs_its_own_tool_after_its_approval(gateway: Served) -> None:
    jobs = [
        Job(f"{version}/{cut}", version, f"page-{version}-{cut}", ["approved page"], cuts)
        for version, path in CLIENTS.items()
        if path != V5
        for cut, cuts in enumerate(([], [1], [3], [9, 2]))
    ]
    results = speak(gateway.url, jobs)
    for job in jobs:
        _check(results[job.name], "")
        said = results[job.name]["messages"][-1]["parts"]
        assert said[-1]["text"] == 'The page says {"answer":42}', job.name
        assert said[1]["approval"]["approved"] is True


def test_a_denial_and_an_approval_go_through_each_client_that_knows_them(gateway: Served) -> None:
    jobs = [
        Job(
            f"{version}/{approve}",
            version,
            f"ask-{version}-{approve}",
            ["approval"],
            approve=approve,
        )
        for version, path in CLIENTS.items()
        if "/v" in path.removeprefix("/api/v1")
        for approve in (True, False)
    ]
    assert len(jobs) == 6
    results = speak(gateway.url, jobs)
    for job in jobs:
        result = results[job.name]
        _check(result, "")
        [call] = [one for one in result["messages"][-1]["parts"] if one["type"] == "tool-remove"]
        assert call["state"] == ("output-available" if job.approve else "output-denied")
        assert call["approval"]["approved"] is job.approve
        assert call["approval"]["reason"] == "because"
        words = "Removed." if job.approve else "Left alone."
        assert result["messages"][-1]["parts"][-1]["text"] == words

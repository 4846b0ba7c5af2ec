"""`bamboo inputs`, and a conversation in which the agent asks."""

import json
from typing import Any

import pytest

from bamboo_gateway.cli.questions import ask
from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway
from tests.support.waiting import until

ASKING = ("-o", "delay_ms=0", "-o", "ask=true", "-o", "thinking=false")


def waiting(gateway: Gateway, session: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.call("GET", f"/sessions/{session}/inputs")["inputs"]
    return found


def test_a_chat_that_cannot_ask_says_how_to_answer(gateway: Gateway, url: str) -> None:
    ended = bamboo("chat", "two words", "-s", "i-1", *ASKING, url=url)
    assert ended.returncode == 0
    assert "bamboo inputs answer i-1" in ended.stderr
    [request] = waiting(gateway, "i-1")
    listed = bamboo("inputs", "list", "i-1", url=url)
    assert listed.stdout.split()[:3] == ["i-1", request["request_id"], "approval"]
    every = bamboo("inputs", "list", "--json", url=url)
    assert json.loads(every.stdout.splitlines()[0])["request_id"] == request["request_id"]
    answered = bamboo("inputs", "answer", "i-1", request["request_id"], "yes", url=url)
    assert "goes on" in answered.stderr
    again = bamboo("inputs", "answer", "i-1", request["request_id"], "no", url=url)
    assert again.returncode != 0
    until(lambda: not waiting(gateway, "i-1"), "nothing is open")
    assert bamboo("inputs", "list", "i-1", url=url).stdout == ""


def test_a_refusal_has_its_reason(gateway: Gateway, url: str) -> None:
    bamboo("chat", "two words", "-s", "i-2", *ASKING, url=url)
    [request] = waiting(gateway, "i-2")
    told = ("i-2", request["request_id"], "no", "--reason", "too dear")
    assert bamboo("inputs", "answer", *told, url=url).returncode == 0
    log = gateway.events("i-2")
    [given] = [event for event in log if event["type"] == "input_given"]
    assert given["answer"] == {"approved": False, "reason": "too dear"}


def test_a_conversation_asks_in_the_terminal_and_goes_on(gateway: Gateway, url: str) -> None:
    with Terminal("chat", "--session", "i-3", *ASKING, url=url) as terminal:
        terminal.until_asked()
        terminal.type("two words\n")
        terminal.until("approve? [y/n]")
        terminal.type("perhaps\n")
        terminal.until("perhaps")
        terminal.type("y\n")
        terminal.until("nothing is missing.")
        terminal.until_asked()
        terminal.type("\x04")
        assert terminal.exit_code() == 0
    assert [one["type"] for one in gateway.events("i-3")].count("input_given") == 1


def typing(*lines: str) -> Any:
    left = list(lines)

    def read(_prompt: str) -> str:
        return left.pop(0)

    return read


@pytest.mark.parametrize(
    ("kind", "schema", "lines", "answer"),
    [
        ("approval", None, ["y"], {"approved": True}),
        ("approval", None, ["x", "no", "too dear"], {"approved": False, "reason": "too dear"}),
        ("approval", None, ["n", ""], {"approved": False}),
        ("question", None, ["blue"], "blue"),
        ("question", {"enum": ["a", "b"]}, ["9", "2"], "b"),
        ("question", {"type": "integer"}, ["x", "7"], 7),
        ("form", None, ['{"a": 1}'], {"a": 1}),
        (
            "form",
            {
                "properties": {
                    "name": {"type": "string"},
                    "age": {"type": "integer"},
                    "spam": {"type": "boolean"},
                    "note": {"type": "string"},
                },
                "required": ["name", "age", "spam"],
            },
            ["Ann", "7", "n", ""],
            {"name": "Ann", "age": 7, "spam": False},
        ),
    ],
)
def test_what_is_typed_becomes_the_answer(
    kind: str, schema: dict[str, Any] | None, lines: list[str], answer: Any
) -> None:
    assert ask({"kind": kind, "prompt": "?", "schema": schema}, typing(*lines)) == answer

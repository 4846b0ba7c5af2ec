"""`bamboo search`."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.conftest import PREFIX
from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {"BAMBOO_STORAGE_URL": "memory:", "BAMBOO_ROOT_PATH": PREFIX}
    with Gateway(tmp_path_factory.mktemp("gateway"), settings) as running:
        yield running


def say(gateway: Gateway, session: str, *texts: str) -> None:
    gateway.call("POST", "/sessions", json={"id": session, "title": f"about {session}"})
    messages = [{"role": "user", "content": text} for text in texts]
    gateway.call("POST", f"/sessions/{session}/messages", json=messages)


def found(url: str, *arguments: str) -> list[dict[str, Any]]:
    lines = bamboo("search", "--json", *arguments, url=url).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_each_message_is_two_lines_with_its_session_and_the_words(gateway, url):
    say(gateway, "s-1", "some\n  words\x1b[31m here")
    head, snippet = bamboo("search", "WORDS", url=url).stdout.splitlines()
    assert head.split("  ")[1:] == ["s-1", "user", "about s-1"]
    assert snippet == "  some words\\u001b[31m here"


def test_a_terminal_shows_the_hits(gateway, url):
    say(gateway, "s-2", "before Straße after")
    with Terminal("search", "strasse", url=url, kind="xterm") as terminal:
        assert terminal.exit_code() == 0
    assert "before \x1b[1;7mStraße\x1b[0m after" in terminal.screen


def test_an_argument_with_a_space_is_a_phrase(gateway, url):
    say(gateway, "s-3", "alpha beta", "beta alpha")
    assert len(found(url, "alpha", "beta")) == 2
    [one] = found(url, "beta alpha")
    assert (one["snippet"], one["ranges"]) == ("beta alpha", [[0, 10]])


def test_filters_and_pages(gateway, url):
    say(gateway, "s-4", *[f"gamma {n}" for n in range(30)])
    assert len(found(url, "gamma")) == 20
    assert len(found(url, "gamma", "--limit", "25", "--session", "s-4")) == 25
    assert found(url, "gamma", "--session", "s-3") == []
    assert found(url, "gamma", "--role", "assistant") == []
    assert found(url, "gamma", "--created-after", "2999-01-01T00:00:00Z") == []
    assert found(url, "gamma", "--archived", "only") == []
    listed = bamboo("sessions", "list", "--search", "gamma", "--json", url=url).stdout
    assert [json.loads(line)["id"] for line in listed.splitlines()] == ["s-4"]


def test_nothing_found_is_said_and_a_refusal_is_one_line(gateway, url):
    nothing = bamboo("search", "no-such-word", url=url)
    assert (nothing.returncode, nothing.stdout) == (0, "")
    assert "no messages" in nothing.stderr
    refused = bamboo("search", "a" * 201, url=url)
    assert refused.returncode == 1
    assert "200" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

"""`--url http://host/a/b`: every command that calls a gateway calls it below that path."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from bamboo_gateway.cli import make_program
from tests.cli.fake_servers import fake_server
from tests.cli.running import bamboo

SESSION = "s-1"
MORE = {
    "chat": ["Hello"],
    "import": ["FILE"],
    "files upload": ["FILE"],
    "sessions delete": [SESSION, "--yes"],
    "share create": [SESSION, "--link"],
    "share revoke": [SESSION, "share_1"],
    "merge": [SESSION, "s-2"],
    "branches select": [SESSION, "main"],
}
"""The arguments of commands that take other ones than sessions."""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command that has `--url`, by its words."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(make_program()))]
    while waiting:
        words, command = waiting.pop()
        inner = getattr(command, "commands", None)
        if inner is not None:
            waiting += [(f"{words} {name}".strip(), one) for name, one in inner.items()]
        elif any("--url" in parameter.opts for parameter in command.params):
            yield words, command


COMMANDS = dict(sorted(commands()))


def recording(asked: list[str]) -> AbstractContextManager[str]:
    """Answer every request with a small object, and keep the paths; yield the address."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        body = b'{"detail":"There is none.","code":"session-not-found"}'
        request.send_response(404)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return fake_server(answer)


def test_there_are_many_commands_with_a_url() -> None:
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_command_asks_only_below_the_path_of_its_url(
    words: str, slash: str, tmp_path: Path
) -> None:
    arguments = MORE.get(words)
    if arguments is None:
        takes = any(one.param_type_name == "argument" for one in COMMANDS[words].params)
        arguments = [SESSION] if takes else []
    file = tmp_path / "session.json"
    file.write_text('{"format":"bamboo"}', "utf-8")
    arguments = [str(file) if one == "FILE" else one for one in arguments]
    asked: list[str] = []
    with recording(asked) as origin:
        ended = bamboo(*words.split(), *arguments, "--url", f"{origin}/a/b{slash}")
    assert asked, ended.stderr
    assert [path for path in asked if not path.startswith("/a/b/api/v1/")] == []


@pytest.mark.parametrize("end", ["?x=1", "#x", "/a?"])
def test_a_url_with_more_than_a_path_is_refused(end: str) -> None:
    refused = bamboo("sessions", "list", "--url", f"http://127.0.0.1:1{end}")
    assert refused.returncode == 2
    assert "an address ends with its path" in refused.stderr

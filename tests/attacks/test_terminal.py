"""Text of users and agents cannot control the terminal that shows it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.serving import serving
from tests.cli.running import Terminal, bamboo

# Escape sequences of every family (CSI, OSC, DCS, a string in C1), carriage returns and backspaces
# that overwrite, marks that turn the direction of text, and markup of the library that prints.
EVIL = (
    "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil.example\x1b\\link\x1bP1$r\x1b\\\x9b31m\x9d0;x\x9c"
    "\r\x08\x7f\u202e\u2066[bold red]loud[/] :skull:"
)
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("sessions", "list"),
    ("sessions", "show", "evil"),
    ("tree", "evil"),
    ("report", "evil"),
    ("resume", "evil"),
    ("extensions", "evil"),
    ("stats", "evil"),
    ("archive",),
    ("tail", "evil", "--after", "0"),
    ("export", "evil"),
    ("chat", "again", "--session", "evil"),
    ("fork", "nobody\x1b[2J"),
)
AS_JSON = ("sessions list", "sessions show evil", "tree evil", "archive", "tail evil --after 0")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    said = {"role": "user", "content": EVIL, "metadata": {EVIL: EVIL}}
    call = {"id": "call", "name": EVIL[:200], "arguments": {EVIL: EVIL}}
    asked = {"role": "assistant", "content": "", "model": EVIL, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "call", "content": EVIL}
    session = {"title": EVIL, "metadata": {EVIL: EVIL}, "working_dir": EVIL, "user_id": "u"}
    agents = {"default": "demo:?delay_ms=0"}
    with serving(agents=agents) as served, served.client() as api:

        def post(path: str, body: Any) -> None:
            answer = api.post(path, json=body)
            assert answer.is_success, answer.text

        for name in ("evil", "packed"):
            post("/sessions", session | {"id": name})
            post(f"/sessions/{name}/messages", [said, asked, result])
        post("/sessions/packed/archive", None)
        post("/sessions/evil/events", {"type": "custom", "name": EVIL[:200], "value": EVIL})
        post("/sessions/evil/fork", {"new_name": EVIL, "new_id": "branch"})
        extension = {"name": EVIL, "config": {EVIL: EVIL}, "enabled": True}
        data = {"enabled_extensions": [extension], "todo_state": {"content": EVIL}}
        data |= {"custom": {EVIL: EVIL}}
        # By this door any text is a name.
        changed = api.patch("/sessions/evil", json={"extension_data": data})
        assert changed.is_success, changed.text
        api.put("/sessions/evil/summary", json={"summary": EVIL})
        api.post("/sessions/evil/close")
        api.post("/sessions/evil/reopen")
        yield served.url


@pytest.mark.parametrize("form", ["markdown", "json", "yaml"])
def test_a_document_shown_on_a_terminal_has_no_control_characters(url: str, form: str) -> None:
    with Terminal("export", "evil", "--format", form, url=url) as terminal:
        terminal.until("owned")
        assert terminal.exit_code() == 0
        assert not set(terminal.screen) & set("\x1b\x07\x08\x7f\x9b\x9d\u202e\u2066")


@pytest.mark.parametrize(
    "command",
    [*COMMANDS, *((*line.split(), "--json") for line in AS_JSON)],
    ids=lambda command: " ".join(command).encode("unicode_escape").decode(),
)
def test_command_output_has_no_control_characters(url: str, command: tuple[str, ...]) -> None:
    if command[0] == "tail":
        assert bamboo("chat", "so that it ends", "--session", "evil", url=url).returncode == 0
        command = (*command, "--until-complete")
    ended = bamboo(*command, url=url)
    text = ended.stdout + ended.stderr
    assert text
    assert "Traceback" not in text
    found = re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert not found, text
    if "--json" in command:
        for line in ended.stdout.splitlines():
            json.loads(line)

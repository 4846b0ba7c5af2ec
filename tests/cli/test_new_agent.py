"""`bamboo new-agent`: what it writes works, and it writes over nothing."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.running import COMMAND_SECONDS
from tests.processes import BAMBOO, REPOSITORY, Gateway, environment


def new_agent(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BAMBOO, "new-agent", *arguments],
        cwd=directory,
        env=environment(PYTHONPATH=str(REPOSITORY)),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def test_the_written_agent_answers_calls_its_tool_and_fails_in_its_own_words(
    tmp_path: Path,
) -> None:
    written = new_agent(tmp_path)
    assert written.returncode == 0
    assert "bamboo serve --agent default=python:my_agent:answer" in written.stdout
    assert "--agent default=python:my_agent:answer" in (tmp_path / "my_agent.py").read_text("utf-8")
    flags = ["--agent", "default=python:my_agent:answer?allow=language"]
    with Gateway(tmp_path, {"PYTHONPATH": str(tmp_path)}, flags) as gateway:
        said = {}
        for name, message, options in [
            ("right", "What is 6 * 7?", {}),
            ("wrong", "What is love?", {}),
            ("other", "Was ist 6 * 7?", {"language": "de"}),
        ]:
            chat = {"session_id": name, "message": message, "options": options}
            said[name] = gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
        assert said["right"]["message"]["content"] == "That makes 42. "
        assert said["right"]["usage"]["completion_tokens"] == 3
        assert said["wrong"]["message"]["content"].startswith("I can only multiply")
        assert said["other"]["error"]["code"] == "unknown_language"
        assert "python:my_agent:answer?allow=language" in (tmp_path / "my_agent.py").read_text()
        types = [event["type"] for event in gateway.events("right")]
        assert types.count("tool_complete") == types.count("thinking") == 1
        assert "tool_error" in [event["type"] for event in gateway.events("wrong")]


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    there = tmp_path / "mine.py"
    there.write_text("precious", "utf-8")
    refused = new_agent(tmp_path, "mine.py")
    assert refused.returncode == 1
    assert "is there already" in refused.stderr
    assert there.read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("name", "code"), [("agent.txt", 2), ("my-agent.py", 2), ("nowhere/agent.py", 1)]
)
def test_a_name_that_is_no_module_name_is_refused_in_one_line(
    name: str, code: int, tmp_path: Path
) -> None:
    refused = new_agent(tmp_path, name)
    assert refused.returncode == code
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help_says_how_to_use_the_file(tmp_path: Path) -> None:
    shown = new_agent(tmp_path, "--help")
    assert shown.returncode == 0
    assert "python:MODULE:answer" in " ".join(shown.stdout.split())

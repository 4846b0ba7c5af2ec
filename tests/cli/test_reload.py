"""`bamboo serve --reload`: those who write agents see their change; the log survives it."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from bamboo_gateway.cli.watched_code import code_of
from tests.cli.running import bamboo
from tests.processes import FreshGateway, Gateway
from tests.support.waiting import until

AGENT = """
import asyncio, pathlib
from words import WORD

async def answer(turn):
    yield f"{{WORD}} {version} "
    while turn.messages[-1].text == "slowly" and not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    yield "end"
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "my_agent.py").write_text(AGENT.format(version="one"), "utf-8")
    (directory / "words.py").write_text("import json\nWORD = 'word'\n", "utf-8")
    (directory / "other.py").write_text("", "utf-8")
    monkeypatch.chdir(directory)
    return directory


def served(tmp_path: Path, project: Path, *flags: str, kind: type[Gateway] = Gateway) -> Gateway:
    flags = ("--reload", "--agent", "default=python:my_agent:answer", *flags)
    return kind(tmp_path, flags=flags, working_directory=project)


def change(file: Path, text: str) -> None:
    """Write a file as editors do, so that nobody sees a part of it."""
    aside = file.with_suffix(".aside")
    aside.write_text(text, "utf-8")
    aside.replace(file)


def ask(gateway: Gateway, session_id: str = "s", message: str = "Hi") -> str:
    body = {"session_id": session_id, "message": message}
    answer = gateway.call("POST", "/chat", json=body, headers={"Prefer": "wait=60"})
    assert answer["status"] == "completed", answer
    return str(answer["message"]["content"])


def started_again(gateway: Gateway, times: int, file: str) -> None:
    """Wait until it is ready after a change; each start prints how to try it."""
    line = f"{file} has changed; starting again"
    until(lambda: line in gateway.log, lambda: f"{line}: {gateway.log}")
    until(
        lambda: gateway.log.count(" - try:") == times + 1,
        lambda: f"the gateway has started {times + 1} times: {gateway.log}",
    )


def test_r6_a_running_answer_ends_in_order_and_the_next_one_comes_from_the_new_code(
    tmp_path: Path, project: Path
) -> None:
    with served(tmp_path, project, kind=FreshGateway) as gateway:
        assert ask(gateway) == "word one end"
        slow = gateway.call("POST", "/chat", json={"session_id": "slow", "message": "slowly"})
        until(
            lambda: any(event["type"] == "token" for event in gateway.events("slow")),
            "the answer has begun",
        )
        before = gateway.events("s")
        change(project / "my_agent.py", AGENT.format(version="two"))
        until(lambda: gateway.http.get("/health/ready").status_code == 503, "the drain has begun")
        (project / "go").touch()
        started_again(gateway, 1, "my_agent.py")
        said = gateway.call("GET", "/sessions/slow/messages")["messages"]
        assert [one["content"] for one in said] == ["slowly", "word one end"]
        run = gateway.call("GET", f"/sessions/slow/runs/{slow['run_id']}")
        assert run["status"] == "completed"
        assert gateway.events("s") == before
        assert ask(gateway) == "word two end"
        assert gateway.stop() == 0


def test_what_the_agent_imports_of_its_project_starts_it_again_and_nothing_else_does(
    tmp_path: Path, project: Path
) -> None:
    with served(tmp_path, project) as gateway:
        change(project / "other.py", "OTHER = 1\n")
        change(project / "notes.txt", "text")
        change(project / "words.py", "WORD = 'another'\n")
        started_again(gateway, 1, "words.py")
        assert ask(gateway) == "another one end"
        assert gateway.log.count("has changed") == 1
        gateway.stop()


def test_code_that_cannot_start_waits_for_the_next_change(tmp_path: Path, project: Path) -> None:
    with served(tmp_path, project) as gateway:
        change(project / "my_agent.py", "def answer(:\n")
        until(lambda: "it starts again after a change" in gateway.log, lambda: gateway.log)
        assert "SyntaxError" in gateway.log
        change(project / "my_agent.py", AGENT.format(version="three"))
        until(lambda: gateway.log.count(" - try:") == 2, lambda: gateway.log)
        assert ask(gateway) == "word three end"
        assert gateway.stop() == 0


def test_a_change_of_the_settings_starts_it_again(tmp_path: Path, project: Path) -> None:
    config = project / "bamboo.toml"
    change(config, 'log_level = "info"\n')
    with served(tmp_path, project, "--config", str(config)) as gateway:
        change(config, 'log_level = "loud"\n')
        until(lambda: "error: log_level" in gateway.log, lambda: gateway.log)
        change(config, 'max_queued_runs = 1\nlog_level = "info"\n')
        until(lambda: gateway.log.count(" - try:") == 2, lambda: gateway.log)
        assert ask(gateway) == "word one end"
        gateway.stop()


def test_a_gateway_does_not_outlive_the_process_that_watches(tmp_path: Path, project: Path) -> None:
    with served(tmp_path, project) as gateway:
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGKILL)

        def is_gone() -> bool:
            try:
                gateway.http.get("/health/live")
            except httpx.TransportError:
                return True
            return False

        until(is_gone, "the port is free")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--agent", "default=demo:"), "there is nothing to watch"),
        (("--storage-url", "memory:"), "would lose every session"),
        (("--port", "0"), "choose one with --port"),
    ],
)
def test_it_is_refused_where_it_makes_no_sense(
    tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    mine = ("--agent", "default=python:examples.python_agent:answer")
    data = ("--data-dir", str(tmp_path / "data"))
    ended = bamboo("serve", "--reload", *data, *(() if "demo" in flags[1] else mine), *flags)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: --reload: ")
    assert words in line
    assert not (tmp_path / "data").exists()


def test_the_watched_files_are_the_users_and_no_installed_ones(project: Path) -> None:
    package = project / "mine"
    (package / "deep").mkdir(parents=True)
    for name in ("__init__.py", "bot.py", "deep/tools.py"):
        (package / name).write_text(
            "import httpx, json\nfrom bamboo_gateway import main\n", "utf-8"
        )
    urls = ["python:my_agent:answer", "python:mine.bot:run?threads_max=3", "demo:", "python:none:x"]
    found = {str(file.relative_to(project)) for file in code_of(urls)}
    assert found == {
        "my_agent.py", "words.py", "mine/__init__.py", "mine/bot.py", "mine/deep/tools.py",
    }  # fmt: skip

"""Readers can type what README.md and docs/ show, and get what these pages say."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.docs_tables import README, pages
from tests.e2e.shown_commands import play, repeatable_gateway, run_script, scripts, shape, steps
from tests.processes import REPOSITORY, Gateway, program

TEXTS = {str(page.relative_to(REPOSITORY)): page.read_text("utf-8") for page in pages()}
TOUR = "docs/tutorials/tour.md"


def test_the_tour_uses_what_people_have() -> None:
    for tool in ("curl", "http", ".venv/bin/bamboo"):
        assert any(step.command.startswith(f"{tool} ") for step in steps(TEXTS[TOUR]))
    assert steps(README.read_text("utf-8"))


@pytest.mark.external_service
@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if steps(text)])
def test_every_command_prints_what_the_page_says(page: str, tmp_path: Path) -> None:
    for name in ("curl", "http"):
        program(name)
    with repeatable_gateway(tmp_path) as gateway:
        for command, output in steps(TEXTS[page]):
            assert shape(play(command, gateway)) == shape(output), command


def played(page: str, directory: Path) -> str:
    """Run a page's `sh` blocks as its reader does; return what they printed."""
    program("curl")
    printed = ""
    with Gateway(directory) as gateway:
        # What they are about: a conversation of alice's, with a run in it.
        chat = {"session_id": "my-chat", "title": "My chat", "user_id": "alice", "message": "Hi!",
                "options": {"delay_ms": 0}}  # fmt: skip
        gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
        runs = True
        for script in scripts(TEXTS[page]):
            if not script.is_run:
                subprocess.run(["bash", "-n", "-c", script.text], check=True)
                continue
            if script.beside_a_gateway != runs:
                runs = script.beside_a_gateway
                assert gateway.start() if runs else gateway.stop() == 0
            ended = run_script(script.text, gateway, directory)
            assert ended.returncode == 0, ended.stderr
            printed += ended.stdout
    return printed


_APART = {"docs/how-to/access.md", "docs/how-to/conversations.md", "docs/how-to/sharing.md"}


@pytest.mark.external_service
@pytest.mark.parametrize(
    "page", [page for page, text in TEXTS.items() if scripts(text) and page not in _APART]
)
def test_the_scripts_of_a_page_work_as_they_are_typed(page: str, tmp_path: Path) -> None:
    played(page, tmp_path)


@pytest.mark.external_service
def test_what_a_page_exports_is_there(tmp_path: Path) -> None:
    played("docs/how-to/conversations.md", tmp_path)
    assert (tmp_path / "My_chat.json").is_file()


@pytest.mark.external_service
def test_what_a_page_shares_is_streamed(tmp_path: Path) -> None:
    assert '"type":"complete"' in played("docs/how-to/sharing.md", tmp_path)


@pytest.mark.external_service
def test_a_ticket_is_what_the_page_shows(tmp_path: Path) -> None:
    printed = played("docs/how-to/access.md", tmp_path)
    shown = re.search(r"^# (\{.*\})$", TEXTS["docs/how-to/access.md"], re.MULTILINE)
    assert shown is not None
    made = re.search(r'^\{"ticket":.*\}$', printed, re.MULTILINE)
    assert made is not None, printed
    assert json.loads(made[0]).keys() == json.loads(shown[1]).keys()

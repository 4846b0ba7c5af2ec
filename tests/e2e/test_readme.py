import json
import re
from pathlib import Path

import pytest

from tests.e2e.readme_tour import README, play, run_script, script, shape, steps
from tests.processes import Gateway, program


@pytest.mark.external_service
def test_every_command_of_the_tour_prints_what_the_readme_says(tmp_path: Path) -> None:
    tour = steps(README.read_text("utf-8"))
    for name in ("curl", "http"):
        program(name)
        assert any(step.command.startswith(f"{name} ") for step in tour)
    with Gateway(tmp_path) as gateway:
        for command, output in tour:
            assert shape(play(command, gateway)) == shape(output), command


@pytest.mark.external_service
def test_the_examples_beside_the_tour_work_as_they_are_typed(tmp_path: Path) -> None:
    program("curl")
    page = README.read_text("utf-8")
    examples = script(page)
    for word in ("/export?", "/import?", "/fork", "/merge", "share=", "keys create", "/ticket"):
        assert word in examples
    with Gateway(tmp_path) as gateway:
        # What they are about: a conversation of alice's, with a run in it.
        chat = {"session_id": "my-chat", "title": "My chat", "user_id": "alice", "message": "Hi!",
                "options": {"delay_ms": 0}}  # fmt: skip
        gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=30"})
        ended = run_script(examples, gateway, tmp_path)
        assert ended.returncode == 0, ended.stderr
        assert (tmp_path / "My_chat.json").is_file()
        assert '"type":"complete"' in ended.stdout, "the stream that was shared"
        shown = re.search(r"^# (\{.*\})$", examples, re.MULTILINE)
        assert shown is not None
        made = re.search(r'^\{"ticket":.*\}$', ended.stdout, re.MULTILINE)
        assert made is not None, ended.stdout
        assert json.loads(made[0]).keys() == json.loads(shown[1]).keys()

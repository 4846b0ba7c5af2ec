from pathlib import Path

import pytest

from tests.e2e.readme_tour import README, play, shape, steps
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

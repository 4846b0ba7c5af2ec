"""Workflows, forms, news and the systemd unit: what can be known of them on any machine."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bamboo_gateway.settings import Settings
from tests.processes import BAMBOO, REPOSITORY, environment, program

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
UNIT = REPOSITORY / "examples" / "systemd" / "bamboo-gateway.service"
EXPOSURE_MAX = 2.0
"""Of 10; the page "Run it as a service" names it."""


def parsed(file: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(file.read_text("utf-8"))
    return found


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_every_action_is_one_commit_and_every_job_has_only_the_rights_that_it_names(
    file: Path,
) -> None:
    for line in re.findall(r"uses: .*", file.read_text("utf-8")):
        assert re.fullmatch(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    workflow = parsed(file)
    assert workflow["permissions"] == {}
    assert "pull_request_target" not in workflow[True]  # YAML reads `on` as true
    for name, job in workflow["jobs"].items():
        assert job["permissions"], name
        assert job["timeout-minutes"] <= 90, name


def test_one_commit_of_each_action_is_used_everywhere() -> None:
    pins = {
        (action, pin)
        for file in WORKFLOWS
        for action, pin in re.findall(r"uses: ([\w./-]+)@(\w+)", file.read_text("utf-8"))
    }
    assert len({action for action, _ in pins}) == len(pins) > 5


def test_the_package_is_published_without_a_password_after_tests_and_provenance() -> None:
    jobs = parsed(REPOSITORY / ".github" / "workflows" / "release.yml")["jobs"]
    package = jobs["package"]
    assert package["permissions"] == {"id-token": "write"}
    assert "provenance" in package["needs"]
    assert set(jobs["provenance"]["needs"]) == {"build", "test"}
    assert "secrets" not in str(package)
    assert "linux/amd64,linux/arm64" in str(jobs["image"])


def test_every_news_file_is_of_a_kind_that_the_changelog_has() -> None:
    towncrier = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"][
        "towncrier"
    ]
    kinds = "|".join(kind["directory"] for kind in towncrier["type"])
    for file in (REPOSITORY / towncrier["directory"]).iterdir():
        assert file.name == "README.md" or re.fullmatch(rf"\+?[\w.-]+\.({kinds})\.md", file.name)
    assert towncrier["start_string"] in (REPOSITORY / towncrier["filename"]).read_text("utf-8")


def test_the_unit_waits_for_the_drain_and_sets_only_what_there_is() -> None:
    unit = UNIT.read_text("utf-8")
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert int(seconds) > Settings.model_fields["drain_timeout_seconds"].default + 5
    for name in re.findall(r"BAMBOO_(\w+)", unit):
        assert name.lower() in Settings.model_fields
    # Exit code 2 says that the settings are wrong: to start again would not help. systemd asks
    # that of the main process alone.
    assert "RestartPreventExitStatus=2" in unit
    assert "ExecStartPre" not in unit


def test_the_units_command_ends_with_the_code_of_a_wrong_configuration(tmp_path: Path) -> None:
    (command,) = re.findall(
        r"^ExecStart=/bin/sh -ec '(.*)'$", UNIT.read_text("utf-8"), re.MULTILINE
    )
    bamboo = f"{' '.join(BAMBOO)}"
    ended = subprocess.run(
        ["/bin/sh", "-ec", command.replace("/opt/bamboo/bin/bamboo", bamboo)],
        env=environment(BAMBOO_PORT="many", BAMBOO_DURABILITY="maybe"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 2
    assert [line.partition(":")[0] for line in ended.stdout.splitlines()] == ["port", "durability"]


@pytest.mark.external_service
def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    bamboo = tmp_path / "bamboo"
    bamboo.write_text(f'#!/bin/sh\nexec {" ".join(BAMBOO)} "$@"\n', "utf-8")
    bamboo.chmod(0o755)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/bamboo/bin/bamboo", str(bamboo)), "utf-8")
    verified = subprocess.run(
        [analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr
    assert UNIT.name not in verified.stderr
    rated = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    (exposure,) = re.findall(r"Overall exposure level for \S+: (\d+\.\d+)", rated.stdout)
    assert float(exposure) < EXPOSURE_MAX

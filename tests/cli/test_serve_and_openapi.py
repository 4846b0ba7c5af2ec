import json
from pathlib import Path

import pytest

from tests.cli.running import bamboo
from tests.processes import Gateway
from tests.support.waiting import until


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--port", "70000"], "port"),
        (["--durability", "sometimes"], "durability"),
        (["--log-level", "loud"], "log_level"),
        (["--log-format", "xml"], "log_format"),
        (["--agent", "nameless"], "NAME=URL"),
        (["--config", "/no/such/file.toml"], "/no/such/file.toml"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, flags: list[str], names: str
) -> None:
    ended = bamboo("serve", "--data-dir", str(tmp_path / "data"), *flags)
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert names in line


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--agent", "x=teapot:"], "agent 'x'"),
        (["--storage-url", "punchcards:"], "punchcards"),
    ],
)
def test_an_address_of_no_known_kind_stops_the_start_with_one_line(
    tmp_path: Path, flags: list[str], names: str
) -> None:
    ended = bamboo("serve", "--data-dir", str(tmp_path / "data"), *flags)
    assert ended.returncode != 0
    (line,) = ended.stderr.splitlines()
    assert names in line


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "bamboo.toml"
    config.write_text(
        'durability = "sometimes"\nlog_level = "loud"\nagents = {file = "demo:"}',
        encoding="utf-8",
    )
    flags = ["--config", str(config), "--durability", "os", "--agent", "flag=demo:?delay_ms=0"]
    with Gateway(tmp_path, {"BAMBOO_LOG_LEVEL": "debug"}, flags) as gateway:
        for agent in ("file", "flag"):
            answer = gateway.call(
                "POST",
                "/chat",
                json={"message": "hi", "agent": agent, "options": {"delay_ms": 0}},
                headers={"Prefer": "wait=20"},
            )
            assert answer["status"] == "completed"


def test_the_start_prints_two_curl_lines_that_work(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        # Requests are served a moment before this is printed.
        until(lambda: "/messages\n" in gateway.log, "the start has printed its lines")
        lines = [line for line in gateway.log.splitlines() if "curl " in line]
        assert len(lines) == 2
        assert all(f"127.0.0.1:{gateway.port}" in line for line in lines)


def test_the_document_is_printed_or_written_whole(tmp_path: Path) -> None:
    printed = bamboo("openapi")
    assert printed.returncode == 0
    document = json.loads(printed.stdout)
    assert document["openapi"].startswith("3.")
    target = tmp_path / "openapi.json"
    target.write_text("old", encoding="utf-8")
    assert bamboo("openapi", "--output", str(target)).returncode == 0
    assert target.read_text(encoding="utf-8") == printed.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["openapi.json"]


def test_a_document_that_cannot_be_written_is_reported_in_one_line(tmp_path: Path) -> None:
    ended = bamboo("openapi", "--output", str(tmp_path / "missing" / "openapi.json"))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1

"""`bamboo config`: what the settings are, where they come from, and what is wrong with them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.cli.config_values import example_env, example_toml, masked, shown
from bamboo_gateway.settings import Settings, load_settings
from tests.cli.running import bamboo
from tests.processes import REPOSITORY

SECRET = "very-secret"
EXAMPLES = REPOSITORY / "examples" / "configuration"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "bamboo.toml"
    file.write_text('log_level = "warning"\nport = 9001\n[agents]\ndefault = "demo:"\n', "utf-8")
    return file


def settings_shown(*arguments: str, **variables: str) -> dict[str, Any]:
    ended = bamboo("config", "show", "--json", *arguments, **variables)
    assert ended.returncode == 0, ended.stderr
    return {one["name"]: one for one in map(json.loads, ended.stdout.splitlines())}


def test_every_setting_is_shown_with_its_value_and_its_source(config: Path) -> None:
    found = settings_shown("--config", str(config), "--port", "9003", BAMBOO_PORT="9002",
                           bamboo_log_format="json")  # fmt: skip
    assert list(found) == list(Settings.model_fields)
    assert found["port"] == {"name": "port", "value": 9003, "source": "flag"}
    assert found["log_format"] == {"name": "log_format", "value": "json", "source": "environment"}
    assert found["log_level"] == {"name": "log_level", "value": "warning", "source": "file"}
    assert found["agents"]["source"] == "file"
    assert found["durability"] == {"name": "durability", "value": "fsync", "source": "default"}


def test_the_table_shows_whole_values_and_can_leave_the_defaults_out(tmp_path: Path) -> None:
    long = f"python:{'a' * 100}:b"
    ended = bamboo("config", "show", "--set", "--agent", f"default={long}", BAMBOO_PORT="9002")
    assert [line.split() for line in ended.stdout.splitlines()] == [
        ["SETTING", "FROM", "VALUE"],
        ["port", "environment", "9002"],
        ["agents", "flag", f"default={long}"],
    ]


def test_no_secret_is_shown() -> None:
    agents = {
        "default": f"openai:gpt?base_url=http%3A%2F%2Fme%3A{SECRET}%40host%2Fv1&api_key_env=MY_KEY",
        "http": f"https://me:{SECRET}@host/agent?secret_env=MY_SECRET&token={SECRET}",
    }
    variables = {
        "BAMBOO_STORAGE_URL": f"postgresql://me:{SECRET}@host/db?password={SECRET}",
        "BAMBOO_BUS_URL": f"redis://me:{SECRET}@bus:6379/1?ssl_keyfile={SECRET}",
        "BAMBOO_API_KEYS": f"{SECRET}-1,{SECRET}-2",
        "BAMBOO_JWT_SECRET": f"{SECRET}-{'x' * 32}",
        "BAMBOO_TICKET_SECRET": f"{SECRET}-{'x' * 32}",
        "BAMBOO_JWKS_URL": f"https://{SECRET}@host/jwks.json",
        "BAMBOO_OTEL_ENDPOINT": f"http://me:{SECRET}@127.0.0.1:4318",
        "BAMBOO_PUBLIC_URL": f"http://me:{SECRET}@127.0.0.1",
        "BAMBOO_AGENTS": json.dumps(agents),
    }
    for flags in (("--json",), ()):
        ended = bamboo("config", "show", *flags, **variables)
        assert ended.returncode == 0, ended.stderr
        assert SECRET not in ended.stdout
        for name in ("MY_KEY", "MY_SECRET", "postgresql://me:***@host/db", "redis://bus:6379/1"):
            assert name in ended.stdout
    checked = bamboo("config", "check", **variables)
    assert checked.returncode == 2
    assert SECRET not in checked.stdout + checked.stderr


def test_every_setting_of_a_secret_type_is_masked() -> None:
    secrets: dict[str, Any] = {
        name: "x" * 40 for name, field in Settings.model_fields.items()
        if "Secret" in str(field.annotation)
    }  # fmt: skip
    assert secrets
    settings = load_settings(**secrets)
    assert {shown(settings, name) for name in secrets} == {"***"}


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("http://host/path?depth=3", "http://host/path?depth=3"),
        ("https://me:pw@host", "https://me:***@host"),
        ("https://token@host", "https://***@host"),
        ("x:y?api_key=pw&depth=3", "x:y?api_key=***&depth=3"),
        ("x:y?api_key_env=NAME&max_tokens=3", "x:y?api_key_env=NAME&max_tokens=3"),
        ("demo:", "demo:"),
    ],
)
def test_what_is_masked_in_an_address(text: str, seen: str) -> None:
    assert masked(text) == seen


def test_a_right_configuration_is_checked_without_a_trace(tmp_path: Path, config: Path) -> None:
    data = tmp_path / "data"
    ended = bamboo("config", "check", "--config", str(config), "--data-dir", str(data))
    assert (ended.returncode, ended.stdout) == (0, "the settings are right\n")
    assert not data.exists()


def test_a_check_says_every_wrong_value_and_name_at_once(config: Path) -> None:
    config.write_text("max_sesions = 5\nport = 70000\n", "utf-8")
    ended = bamboo("config", "check", "--json", "--config", str(config), BAMBOO_DURABILITY="maybe",
                   BAMBOO_APIKEY=SECRET)  # fmt: skip
    assert ended.returncode == 2
    found = json.loads(ended.stdout)
    assert found["ok"] is False
    assert sorted(found["faults"]) == [
        "BAMBOO_APIKEY: there is no such variable; did you mean BAMBOO_API_KEY?",
        "durability: Input should be 'fsync' or 'os'",
        "max_sesions: there is no such setting; did you mean max_sessions?",
        "port: Input should be less than or equal to 65535",
    ]


def test_a_check_says_everything_that_would_stop_a_start(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    ended = bamboo(
        *("config", "check", "--host", "0.0.0.0", "--data-dir", str(blocked / "data")),
        *("--agent", "default=teapot:", "--agent", "mine=python:no_such_module:run"),
        BAMBOO_TITLES="agent:nobody",
        BAMBOO_STORAGE_PASSWORD_FILE=str(tmp_path / "none"),
    )
    assert ended.returncode == 2
    lines = ended.stdout.splitlines()
    for part in (
        "agent 'default'",
        "agent 'mine'",
        "nobody",
        "host 0.0.0.0",
        "password",
        "data_dir",
    ):
        assert any(part in line for line in lines), part


def test_what_check_finds_is_what_stops_the_start(tmp_path: Path) -> None:
    flags = ("--data-dir", str(tmp_path / "data"), "--host", "0.0.0.0")
    said = bamboo("config", "check", *flags).stdout.strip()
    started = bamboo("serve", *flags)
    assert started.returncode == 2
    assert started.stderr.strip() == f"error: {said}"


def test_a_file_of_variables_is_read_as_containers_read_it(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# mine\n\nBAMBOO_PORT=9005\nBAMBOO_LOG_LEVEL=debug\nOTHER=x=y\n", "utf-8")
    found = settings_shown("--env-file", str(file), BAMBOO_LOG_LEVEL="error")
    assert found["port"]["value"] == 9005
    assert found["log_level"]["value"] == "error"  # the environment itself wins
    file.write_text(f"{SECRET}\n", "utf-8")
    ended = bamboo("config", "check", "--env-file", str(file))
    assert (ended.returncode, ended.stderr) == (2, f"error: {file}: line 1 is no NAME=VALUE\n")


@pytest.mark.parametrize("form", ["toml", "env"])
def test_the_example_has_every_setting_and_is_the_file_that_the_docs_name(form: str) -> None:
    printed = bamboo("config", "example", form).stdout
    assert (EXAMPLES / f"every-setting.{form}").read_text("utf-8") == printed
    named = re.findall(r"^#(?:BAMBOO_)?(\w+) ?=", printed, re.MULTILINE)
    assert sorted(name.lower() for name in named) == sorted(Settings.model_fields)


def test_the_lines_of_the_examples_are_settings_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = re.compile(r"^#(\w+ ?=.*)$", re.MULTILINE)
    lines = [one for one in line.findall(example_toml()) if not one.endswith('= ""')]
    file = tmp_path / "every.toml"
    file.write_text("\n".join(lines), "utf-8")
    from_file = load_settings(file)
    for one in line.findall(example_env()):
        name, _, value = one.partition("=")
        if value:
            monkeypatch.setenv(name, value)
    assert load_settings().model_dump() == from_file.model_dump()
    assert from_file.agents == {"default": "demo:"}


def test_both_files_of_one_example_mean_the_same() -> None:
    of_toml = settings_shown("--config", str(EXAMPLES / "bamboo.toml"))
    of_env = settings_shown("--env-file", str(EXAMPLES / "bamboo.env"))
    values = [{name: one["value"] for name, one in found.items()} for found in (of_toml, of_env)]
    assert values[0] == values[1]
    assert {one["source"] for one in of_toml.values()} == {"file", "default"}
    assert {one["source"] for one in of_env.values()} == {"environment", "default"}

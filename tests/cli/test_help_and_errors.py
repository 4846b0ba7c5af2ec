"""What every command has in common: help, exit codes, and errors that are one line."""

import subprocess
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler

import pytest
from typer.main import get_command

from bamboo_gateway import __version__
from bamboo_gateway.cli import make_program
from tests.cli.fake_servers import fake_server, stream
from tests.cli.running import bamboo, fresh_bamboo
from tests.docs_tables import leaves
from tests.processes import REPOSITORY, Gateway, free_port

COMMANDS = [name.split()[1:] for name, _ in leaves("bamboo", get_command(make_program()))]
# Commands that ask a gateway, with what they need to get that far.
ASKING: Sequence[Sequence[str]] = [
    ["chat", "hi"],
    ["tail", "s"],
    ["sessions", "list"],
    ["sessions", "show", "s"],
    ["sessions", "close", "s"],
    ["sessions", "reopen", "s"],
    ["sessions", "delete", "s", "--yes"],
    ["archive", "s"],
    ["restore", "s"],
    ["export", "s"],
    ["fork", "s"],
    ["merge", "s", "t"],
    ["tree", "s"],
    ["resume", "s"],
    ["stats"],
    ["report", "s"],
    ["extensions", "s"],
    ["cleanup", "--yes"],
    ["diagnose"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(command: Sequence[str]) -> None:
    asked = bamboo(*command, "--help")
    assert asked.returncode == 0
    assert "Usage: " in asked.stdout
    assert asked.stderr == ""


def test_the_help_names_every_command() -> None:
    text = bamboo("--help").stdout
    assert all(command[0] in text for command in COMMANDS)


def test_the_version_is_that_of_the_package() -> None:
    assert fresh_bamboo("--version").stdout == f"bamboo {__version__}\n"


def test_help_does_not_wait_for_the_libraries_of_the_server() -> None:
    heavy = {"fastapi", "starlette", "uvicorn", "pydantic", "httpx", "anyio", "structlog"}
    code = f"import sys, bamboo_gateway.cli; print(sorted({heavy!r} & sys.modules.keys()))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[]\n"


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_without_a_gateway_a_command_says_what_to_do_and_exits_with_3(
    command: Sequence[str],
) -> None:
    ended = bamboo(*command, url=f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 3
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "connection refused" in line
    assert "bamboo serve" in line


@pytest.mark.parametrize("command", [["tail", "nobody"], ["sessions", "show", "nobody"]])
def test_a_problem_is_shown_as_its_detail_and_code(url: str, command: list[str]) -> None:
    ended = bamboo(*command, url=url)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith("(session-not-found)")


@pytest.mark.parametrize("session", ["../x", "..", "a/b", "a\nb", "ä", "", "a" * 129, "-"])
def test_a_text_that_cannot_be_a_session_id_is_never_sent(session: str) -> None:
    ended = bamboo("sessions", "show", "--", session, url=f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 2
    assert "session id" in ended.stderr


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "127.0.0.1:8080", "http://", "http://a:b"])
def test_a_url_that_cannot_be_used_is_a_usage_error(url: str) -> None:
    ended = bamboo("sessions", "list", "--url", url)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1


def test_an_unknown_option_is_a_usage_error_that_names_the_nearest() -> None:
    ended = bamboo("sessions", "list", "--sort-bye")
    assert ended.returncode == 2
    assert "--sort-by" in ended.stderr.replace("--sort-bye", "")


@pytest.mark.parametrize(
    ("name", "nearest"), [("BAMBOO_ULR", "BAMBOO_URL"), ("BAMBOO_APIKEY", "BAMBOO_API_KEY")]
)
def test_a_misspelt_variable_is_a_usage_error_that_names_the_nearest_and_no_value(
    name: str, nearest: str
) -> None:
    ended = bamboo("sessions", "list", **{name: "http://secret.invalid"})
    assert ended.returncode == 2
    assert ended.stderr == f"error: {name}: there is no such variable; did you mean {nearest}?\n"


def test_the_gateways_own_settings_do_not_disturb_a_command(url: str) -> None:
    ended = bamboo("sessions", "list", url=url, BAMBOO_API_KEYS="a", BAMBOO_MY_KEY="b")
    assert ended.returncode == 0


def test_another_program_at_the_address_is_recognised() -> None:
    def page(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/html")
        request.end_headers()
        request.wfile.write(b"<h1>It works!</h1>")

    with fake_server(page) as url:
        for command in (["sessions", "list"], ["tail", "s"], ["chat", "hi"]):
            ended = bamboo(*command, url=url)
            assert ended.returncode == 1
            assert "like a gateway" in ended.stderr


def test_a_frame_that_is_no_event_is_recognised() -> None:
    with fake_server(stream("data: hello\n\n")) as url:
        ended = bamboo("tail", "s", url=url)
    assert ended.returncode == 1
    assert "no event" in ended.stderr


def test_an_error_that_is_no_problem_document_shows_its_status() -> None:
    def refuse(request: BaseHTTPRequestHandler) -> None:
        request.send_error(418)

    with fake_server(refuse) as url:
        ended = bamboo("sessions", "list", url=url)
    assert (ended.returncode, ended.stderr) == (1, "error: I'm a Teapot (HTTP 418)\n")


def test_the_key_of_the_environment_is_sent_and_a_wrong_one_is_reported(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("keys")
    with Gateway(directory, {"BAMBOO_API_KEYS": "right,other"}) as gateway:
        assert bamboo("sessions", "list", url=gateway.url, BAMBOO_API_KEY="right").returncode == 0
        refused = bamboo("sessions", "list", "--api-key", "wrong", url=gateway.url)
        assert refused.returncode == 1
        assert "(unauthorized)" in refused.stderr
        assert "wrong" not in refused.stderr


def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(url: str) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    ended = bamboo("sessions", "list", url=url, HTTP_PROXY=nowhere, ALL_PROXY=nowhere)
    assert ended.returncode == 0

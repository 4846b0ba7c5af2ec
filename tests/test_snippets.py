"""Every block of code in the documentation is what it says it is: it can be read, or loaded.

Commands (`sh`, `console`) are run in tests/e2e/test_shown_commands.py.
"""

import ast
import json
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from bamboo_gateway.settings import Settings, load_settings
from tests.docs_tables import pages
from tests.processes import REPOSITORY, program

CONFIGURATION = REPOSITORY / "examples" / "configuration"


class Snippet(NamedTuple):
    """A block of code on a page."""

    page: str
    number: int
    language: str
    text: str


_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    Snippet(str(page.relative_to(REPOSITORY)), number, *found)
    for page in pages()
    for number, found in enumerate(_FENCE.findall(page.read_text("utf-8")), 1)
]


def of(*languages: str) -> list[object]:
    return [
        pytest.param(snippet, id=f"{snippet.page}-{snippet.number}")
        for snippet in SNIPPETS
        if snippet.language in languages
    ]


def test_every_block_has_a_language_that_a_test_reads() -> None:
    read = {"python", "json", "toml", "js", "html", "nginx", "haproxy", "sh", "console", "text"}
    read |= {"ts", "tsx"}  # in tests/clients/test_typescript_docs.py
    unread = [snippet for snippet in SNIPPETS if snippet.language not in read]
    # The two commands at the head of the README, and a drawing.
    assert {snippet.page for snippet in unread} <= {"README.md", "ARCHITECTURE.md"}
    assert {snippet.language for snippet in unread} <= {""}


@pytest.mark.parametrize("snippet", of("python"))
def test_python_compiles(snippet: Snippet) -> None:
    # A snippet may stand for the inside of the reader's own async function.
    compile(snippet.text, snippet.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("snippet", of("json"))
def test_json_is_one_value_or_one_a_line(snippet: Snippet) -> None:
    try:
        json.loads(snippet.text)
    except ValueError:
        assert [json.loads(line) for line in snippet.text.splitlines()]


@pytest.mark.parametrize("snippet", of("toml"))
def test_toml_is_a_configuration(
    snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bamboo.toml"
    file.write_text(snippet.text, "utf-8")
    settings(monkeypatch, {}, file)


def settings(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], config: Path | None = None
) -> Settings:
    """Load settings with these variables and no others."""
    with monkeypatch.context() as patched:
        for name in [name for name in os.environ if name.startswith("BAMBOO_")]:
            patched.delenv(name)
        for name, value in variables.items():
            patched.setenv(name, value)
        return load_settings(config)


def test_the_toml_file_and_the_environment_file_say_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = (CONFIGURATION / "bamboo.env").read_text("utf-8").splitlines()
    variables = dict(line.split("=", 1) for line in lines)
    by_file = settings(monkeypatch, {}, CONFIGURATION / "bamboo.toml")
    assert settings(monkeypatch, variables).model_dump() == by_file.model_dump()
    said = {name.removeprefix("BAMBOO_").lower() for name in variables}
    assert said == by_file.model_fields_set


@pytest.mark.external_service
@pytest.mark.parametrize("snippet", of("js", "html"))
def test_scripts_parse(snippet: Snippet, tmp_path: Path) -> None:
    scripts = [snippet.text]
    if snippet.language == "html":
        scripts = re.findall(r"<script>(.*?)</script>", snippet.text, re.DOTALL)
        assert scripts
    for script in scripts:
        file = tmp_path / "script.js"
        file.write_text(script, "utf-8")
        subprocess.run([program("node"), "--check", file], check=True)


@pytest.mark.external_service
@pytest.mark.parametrize("snippet", of("nginx"))
def test_nginx_takes_the_configuration(snippet: Snippet, tmp_path: Path) -> None:
    """Of whole configurations tests/e2e/test_nginx.py shows that they work."""
    if "http {" in snippet.text:
        assert snippet.text == (REPOSITORY / "examples" / "nginx" / "nginx.conf").read_text("utf-8")
        return
    file = tmp_path / "nginx.conf"
    file.write_text(f"events {{}}\nhttp {{\nserver {{\n{snippet.text}\n}}\n}}\n", "utf-8")
    own = f"pid {tmp_path / 'nginx.pid'}; error_log stderr;"
    subprocess.run([program("nginx"), "-t", "-c", file, "-p", tmp_path, "-g", own], check=True)


@pytest.mark.external_service
@pytest.mark.parametrize("snippet", of("haproxy"))
def test_haproxy_takes_the_configuration(snippet: Snippet, tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(snippet.text, "utf-8")
    subprocess.run([program("haproxy"), "-c", "-f", file], check=True)


def test_the_log_that_a_page_shows_is_one(tmp_path: Path) -> None:
    page = "docs/concepts/on-disk-format.md"
    shown = next(one for one in SNIPPETS if one.page == page and one.language == "json")
    log = tmp_path / "my-chat.jsonl"
    log.write_text(shown.text, "utf-8")
    checked = subprocess.run(
        ["python3", REPOSITORY / "examples" / "check_log.py", log],
        capture_output=True,
        text=True,
        check=True,
    )
    assert checked.stdout == "All checksums fit. The last event has the seq 4.\n"

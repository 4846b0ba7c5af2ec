"""What a command and an idle gateway must not import: a start would wait for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

SECONDS = 120
"""A deadline for an interpreter on a busy machine."""

SERVER = {
    "asyncio",
    "bamboo_gateway.api",
    "bamboo_gateway.main",
    "bamboo_gateway.server",
    "bamboo_gateway.sessions",
    "bamboo_gateway.settings",
    "bamboo_gateway.storage",
    "fastapi",
    "starlette",
    "structlog",
    "uvicorn",
}
"""What only the gateway itself needs; pydantic checks the options of commands, too."""

COMMAND = """
import sys
from bamboo_gateway.cli import main
sys.argv[0] = "bamboo"
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""

GATEWAY = """
import os, signal, sys
from bamboo_gateway.cli import serve
from bamboo_gateway.server import server
from bamboo_gateway.settings import load_settings

def started(*_):
    from bamboo_gateway.api.schemas.fields import Described
    kinds = [Described]
    for kind in kinds:
        kinds += kind.__subclasses__()
    print(*sys.modules, *(f"{kind.__name__}!" for kind in kinds[1:] if kind.__pydantic_complete__))
    os.kill(os.getpid(), signal.SIGTERM)

server._started = started
sys.exit(server.serve(load_settings(port=0, data_dir=sys.argv[1])))
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "others"),
    [
        (["--help"], {"httpx", "bamboo_gateway.cli.client", "pydantic"}),
        (["--version"], {"httpx", "bamboo_gateway.cli.client"}),
        (["serve", "--help"], {"httpx", "bamboo_gateway.cli.client", "bamboo_gateway.cli.chat"}),
        (["sessions", "list", "--url", "http://127.0.0.1:9"], {"bamboo_gateway.cli.serve"}),
    ],
)
def test_a_command_imports_nothing_of_the_gateway(arguments: list[str], others: set[str]) -> None:
    ended = run(COMMAND, *arguments)
    imported = set(ended.stderr.splitlines()[-1].split())
    assert "bamboo_gateway.cli" in imported
    assert imported & (SERVER | others) == set()


def test_an_idle_gateway_has_imported_nothing_that_its_settings_do_not_ask_for(
    tmp_path: Path,
) -> None:
    ended = run(GATEWAY, tmp_path)
    assert ended.returncode == 0, ended.stderr
    imported = ended.stdout.splitlines()[0].split()
    assert "bamboo_gateway.api.routes.chat" in imported
    needless = {
        "aiohttp",
        "bamboo_gateway.agents.http",
        "bamboo_gateway.agents.openai",
        "bamboo_gateway.agents.python",
        "bamboo_gateway.cli.chat",
        "bamboo_gateway.exporters.foreign",
        "bamboo_gateway.exporters.importing",
        "bamboo_gateway.exporters.markdown",
        "bamboo_gateway.observability.otel",
        "bamboo_gateway.observability.prometheus",
        "bamboo_gateway.storage.memory",
        "httpx",
        "markdown_it",
        "opentelemetry.sdk",
        "prometheus_client",
        "pydantic.v1",  # FastAPI imports it with the first declaration that it reads
        "yaml",
    }
    assert needless & set(imported) == set()
    # Schemas that only the OpenAPI document needs are made with it.
    assert [name for name in imported if name.endswith("!")] == []

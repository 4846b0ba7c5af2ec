"""Clients that generators make of the OpenAPI document: made without a warning, and at work."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.watchers import NODE_DIR
from tests.processes import REPOSITORY, Gateway, environment, lacking, program

pytestmark = [pytest.mark.external_service, pytest.mark.timeout(500)]

HERE = Path(__file__).parent / "api_clients"
DOCUMENT = REPOSITORY / "openapi" / "openapi.json"
# Where `.ci/run` installs api_clients/requirements.txt: its typer is older than the gateway's.
PYTHON_CLIENT = REPOSITORY / ".venv" / "openapi-python-client" / "bin"
# A compiler on a busy machine.
SECONDS = 240

MISTAKES = {
    'case "thinking":': "",  # a type of event is forgotten
    "event.result.success": "event.result.succes",
    'type: "custom", name: "progress"': 'type: "custom", title: "progress"',
    'case "cancelled":\n    case "interrupted":': 'case "cancelled":\n    case "stopped":',
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path) as running:
        yield running


def output_of(command: Sequence[object], directory: Path, **variables: str) -> str:
    """Return what a program printed, which must have ended well."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]}:\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def npm_program(name: str) -> Path:
    found = NODE_DIR / "node_modules" / ".bin" / name
    if not found.exists():
        lacking("the npm packages of tests/e2e/node (`make test` installs them where npm is)")
    return found


def answer_of(printed: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document's types, made without a warning."""
    folder = tmp_path_factory.mktemp("types")
    generator = [program("node"), npm_program("openapi-typescript")]
    made = output_of([*generator, DOCUMENT, "-o", "api.ts"], folder)
    assert "warn" not in made.lower()
    return folder / "api.ts"


class Compiled(NamedTuple):
    """A folder of TypeScript clients after the compiler was there, and what it said."""

    folder: Path
    wrong: set[str]
    said: str

    @property
    def refused(self) -> set[str]:
        """The files with an error."""
        return {line.partition("(")[0] for line in self.said.splitlines() if "error TS" in line}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, types: Path) -> Compiled:
    """The TypeScript client beside these types, and one for each mistake.

    The compiler needs most of its time for the types, which it reads once for all.
    """
    folder = tmp_path_factory.mktemp("clients") / "client"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("*.py", "*.txt", "*.in"))
    (folder / "node_modules").symlink_to(NODE_DIR / "node_modules")
    shutil.copy(types, folder)
    client = (folder / "client.ts").read_text("utf-8")
    wrong = set()
    for number, (right, mistake) in enumerate(MISTAKES.items()):
        assert right in client
        (folder / (name := f"wrong-{number}.ts")).write_text(
            client.replace(right, mistake), "utf-8"
        )
        wrong.add(name)
    options = json.loads((folder / "tsconfig.json").read_text("utf-8"))
    options["files"] = ["client.ts", *sorted(wrong)]
    (folder / "tsconfig.json").write_text(json.dumps(options), "utf-8")
    done = subprocess.run(
        [program("node"), npm_program("tsc"), "--project", folder],
        cwd=folder,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    return Compiled(folder, wrong, done.stdout + done.stderr)


def test_a_typescript_client_compiles_strictly_and_works(
    compiled: Compiled, gateway: Gateway
) -> None:
    # No word is about it, or about the types.
    assert compiled.refused <= compiled.wrong, compiled.said
    (compiled.folder / "package.json").write_text('{"type": "module"}')

    answer = answer_of(output_of([program("node"), "client.js", gateway.url], compiled.folder))

    assert answer["waited"] == "ended completed assistant"
    assert answer["atOnce"].startswith("accepted ")
    assert answer["streamed"][0] == "open"
    assert answer["streamed"][-1] == "complete"
    assert answer["described"] == len(answer["streamed"])
    # A stream of a new session begins at its start; the log has the event that was posted, too.
    assert answer["log"] == [*answer["streamed"][1:], "custom"]
    assert answer["problem"] == "session-not-found"


def test_typescript_refuses_what_the_document_does_not_have(compiled: Compiled) -> None:
    assert compiled.refused == compiled.wrong, compiled.said


def test_a_python_client_is_made_without_a_warning_and_works(
    tmp_path: Path, gateway: Gateway
) -> None:
    if not (PYTHON_CLIENT / "openapi-python-client").exists():
        lacking(f"openapi-python-client in {PYTHON_CLIENT.parent} (.ci/run installs it)")
    folder = tmp_path / "client"
    config = REPOSITORY / "openapi" / "openapi-python-client.yml"
    path = os.pathsep.join([str(PYTHON_CLIENT), os.environ["PATH"]])
    made = output_of(
        [PYTHON_CLIENT / "openapi-python-client", "generate", "--path", DOCUMENT, "--config",
         config, "--output-path", folder, "--fail-on-warning"],
        tmp_path,
        PATH=path,
    )  # fmt: skip
    assert "warning" not in made.lower()
    python = PYTHON_CLIENT / "python"
    assert output_of([python, "-W", "error", "-m", "compileall", "-q", folder], tmp_path) == ""

    printed = output_of(
        [python, "-W", "error", HERE / "client.py", gateway.url], folder, PYTHONPATH=str(folder)
    )

    answer = answer_of(printed)
    assert answer["modules"] > 100
    assert answer["waited"] == "completed"
    assert {"session_created", "message", "token", "complete", "custom"} <= set(answer["log"])
    assert answer["problem"] == "session-not-found"

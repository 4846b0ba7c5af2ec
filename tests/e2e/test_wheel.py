"""The wheel, installed into an empty environment beside a project that has code of its own."""

import importlib.metadata
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator, Sequence
from email.message import Message
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from bamboo_gateway import RELEASE
from tests.processes import REPOSITORY, Gateway, environment, free_port
from tests.support.clients import local_client
from tests.support.waiting import until

_COMMAND_SECONDS = 100
_AGENT = '''\
"""An agent in a package that is called `app`, as many projects call theirs."""

from bamboo_gateway.agents.base import Turn


async def run(turn: Turn):
    yield f"app.mybot heard: {turn.messages[-1].text}"
'''


def outside() -> dict[str, str]:
    """Return an environment in which no path leads to this repository."""
    return {name: value for name, value in environment().items() if name != "PYTHONPATH"}


def ran(command: Sequence[str | Path], directory: Path = REPOSITORY) -> str:
    """Run a command to its good end and return what it printed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=outside(),
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `make setup` installs the project: by the backend of the lock, offline."""
    directory = tmp_path_factory.mktemp("dist")
    ran([sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(directory)])
    (built,) = directory.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a new environment; return the directory of its programs."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    (packages,) = place.glob("lib/python*/site-packages")
    link_runtime_dependencies(packages)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    ran([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
    return place / "bin"


def link_runtime_dependencies(packages: Path) -> None:
    """Link what requirements.lock names, and nothing else of this environment, into another one.

    So the gateway works there only if it needs none of the packages that are for development.
    """
    lock = (REPOSITORY / "requirements.lock").read_text("utf-8")
    for name in re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==", lock, re.MULTILINE):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(str(importlib.metadata.distribution(name).locate_file(top)))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a user's project that has a package called `app`."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "mybot.py").write_text(_AGENT, "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def names_in(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from archive.namelist()


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def test_the_wheel_has_both_packages_with_every_file_of_the_repository(wheel: Path) -> None:
    names = set(names_in(wheel))
    info = f"bamboo_gateway-{version_of(wheel)}.dist-info"
    assert {name.partition("/")[0] for name in names} == {
        "bamboo_gateway",
        "bamboo_gateway_client",
        info,
    }
    kept = {
        str(path.relative_to(source))
        for source in (REPOSITORY / "app", REPOSITORY / "clients" / "python" / "src")
        for path in source.glob("bamboo_gateway*/**/*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if not name.startswith(info)} == kept
    assert {"bamboo_gateway/py.typed", "bamboo_gateway_client/py.typed"} <= names
    assert f"{info}/licenses/LICENSE" in names


def test_its_metadata_name_the_version_the_pages_and_both_programs(
    wheel: Path, metadata: Message
) -> None:
    assert metadata["Name"] == "bamboo-gateway"
    assert metadata["Version"] == version_of(wheel)
    assert version_of(wheel).startswith(RELEASE)
    pages = dict(url.split(", ") for url in metadata.get_all("Project-URL", []))
    assert set(pages) == {"Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith("https://") for url in pages.values())
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(
            f"bamboo_gateway-{version_of(wheel)}.dist-info/entry_points.txt"
        ).decode()
    assert entry_points.split("\n")[:3] == [
        "[console_scripts]",
        "bamboo = bamboo_gateway.cli:main",
        "bamboo-gateway = bamboo_gateway.cli:main",
    ]


def test_every_way_to_start_the_installed_program_is_that_program(
    installed: Path, wheel: Path, tmp_path: Path
) -> None:
    for program in (
        [installed / "bamboo"],
        [installed / "bamboo-gateway"],
        [installed / "python", "-m", "bamboo_gateway"],
    ):
        assert ran([*program, "--version"], tmp_path) == f"bamboo {version_of(wheel)}\n"
    where = ran([installed / "python", "-c", "import bamboo_gateway as b; print(b.__file__)"])
    assert Path(where).is_relative_to(installed.parent), "the installed copy, not the sources"


def test_the_installed_gateway_runs_agents_of_a_project_that_has_its_own_app(
    installed: Path, project: Path
) -> None:
    ran([installed / "bamboo", "new-agent"], project)
    flags = ["--agent", "default=python:app.mybot:run", "--agent", "new=python:my_agent:answer"]
    gateway = Gateway(
        project, flags=flags, program=[str(installed / "bamboo")], working_directory=project
    )
    with gateway:
        for agent, said in [("default", "app.mybot heard: 6 * 7"), ("new", "That makes 42. ")]:
            asked = {"message": "6 * 7", "agent": agent}
            answer = gateway.call("POST", "/chat", json=asked, headers={"Prefer": "wait=30"})
            assert answer["status"] == "completed", answer["error"]
            assert answer["message"]["content"] == said


def test_the_installed_app_runs_under_plain_uvicorn(installed: Path, project: Path) -> None:
    port = free_port()
    settings = {
        "BAMBOO_STORAGE_URL": "memory:",
        "BAMBOO_AGENTS": '{"default": "python:app.mybot:run"}',
    }
    where = ["--factory", "bamboo_gateway.main:create_app", "--port", str(port)]
    with (
        local_client(base_url=f"http://127.0.0.1:{port}/api/v1") as http,
        (project / "log").open("wb") as log,
        subprocess.Popen(
            [installed / "python", "-m", "uvicorn", *where],
            cwd=project,
            env={**outside(), **settings},
            stdout=log,
            stderr=log,
        ) as process,
    ):

        def is_ready() -> bool:
            assert process.poll() is None, (project / "log").read_text("utf-8")
            try:
                return http.get("/health/ready").status_code == 200
            except httpx.TransportError:
                return False

        try:
            until(is_ready, "the gateway is ready")
            asked = {"message": "Hello", "session_id": "s"}
            http.post("/chat", json=asked, headers={"Prefer": "wait=30"}, timeout=60)
            said = http.get("/sessions/s/messages").json()["messages"]
        finally:
            process.terminate()
    assert [message["content"] for message in said] == ["Hello", "app.mybot heard: Hello"]

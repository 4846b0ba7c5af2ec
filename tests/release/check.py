"""`make release-check`: everything about a release that a machine can know before it.

    python -m tests.release.check [--quick]

It builds both distributions twice and compares them, checks what is in them, installs them into an
empty environment of each Python that there is, has a conversation there, makes the bill of
materials, and checks the workflows. The files are in `dist/`. `--quick` installs nothing.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import versioning
from tests.processes import REPOSITORY
from tests.release.distributions import (
    Distributions,
    build,
    build_again,
    digest,
    fixed_time,
    sdist_faults,
    wheel_faults,
)
from tests.release.installs import PYTHONS, bare_install_faults, install_faults, pythons

TOOLS: Final = REPOSITORY / ".venv" / "release" / "bin"
DIST: Final = REPOSITORY / "dist"
CLIENT: Final = REPOSITORY / "clients" / "python"
WORKFLOWS: Final = REPOSITORY / ".github" / "workflows"


def main(arguments: list[str]) -> int:
    """Check everything; return the exit code: 0 without a fault, 1 with one."""
    faults: list[str] = []

    def step(name: str, found: Iterable[str]) -> None:
        print(f"{name} …", flush=True)
        for fault in found:
            print(f"  fault: {fault}", flush=True)
            faults.append(fault)

    DIST.mkdir(exist_ok=True)
    for old in DIST.iterdir():
        old.unlink()
    variables = fixed_time()
    built = build(REPOSITORY, DIST, **variables)
    print(f"built {built.wheel.name} and {built.sdist.name}")
    step("the version", _version_faults(built))
    with tempfile.TemporaryDirectory() as directory:
        step("the same files when built again", build_again(built, Path(directory), **variables))
    step("what the wheel has", wheel_faults(built))
    step("what the sdist has", sdist_faults(built))
    step("twine check", _tool("twine", "check", "--strict", str(built.wheel), str(built.sdist)))
    if CLIENT.is_dir():
        step("the client's own distributions", _client_faults(variables))
    step("bill of materials", _bill_of_materials(built))
    step("changelog", _tool("towncrier", "build", "--draft", "--version", built.version))
    step("workflows", _workflow_faults())
    if "--quick" not in arguments:
        step_installs(built, step)
    sums = "".join(f"{digest(file)}  {file.name}\n" for file in sorted(DIST.iterdir()))
    (DIST / "SHA256SUMS").write_text(sums, "utf-8")
    print(f"{len(faults)} faults" if faults else f"{built.version} can be released")
    return int(bool(faults))


def step_installs(built: Distributions, step: Callable[[str, Iterable[str]], None]) -> None:
    """Install and use the distributions with each Python."""
    found = pythons()
    for version in PYTHONS:
        if version not in found:
            print(f"Python {version} is not here: not tried")
            continue
        lock = REPOSITORY / "requirements.lock"
        step(f"an empty environment of Python {version}",
             install_faults(found[version], built.wheel, lock))  # fmt: skip
    oldest = next(iter(found.values()))
    step("the sdist on a bare machine", bare_install_faults(oldest, built.sdist, built.version))


def _version_faults(built: Distributions) -> Iterable[str]:
    if not built.version.startswith(versioning.release()):
        yield f"the version is {built.version}, and RELEASE is {versioning.release()}"
    tag = os.environ.get("GITHUB_REF_NAME", "")
    if os.environ.get("GITHUB_REF_TYPE") == "tag" and tag.removeprefix("v") != built.version:
        yield f"the tag is {tag}, and the version {built.version}"


def _client_faults(variables: dict[str, str]) -> Iterable[str]:
    """Build the client's package beside the gateway's, and yield what is wrong with it."""
    with tempfile.TemporaryDirectory() as directory:
        built = build(CLIENT, Path(directory), **variables)
        with zipfile.ZipFile(built.wheel) as archive:
            names = set(archive.namelist())
        sources = (CLIENT / "src").rglob("*.py")
        expected = {str(path.relative_to(CLIENT / "src")) for path in sources}
        for name in sorted({*expected, "bamboo_gateway_client/py.typed"} - names):
            yield f"the client's wheel lacks {name}"
        if built.version != versioning.release():
            yield f"the client is {built.version}, and RELEASE is {versioning.release()}"
        yield from _tool("twine", "check", "--strict", str(built.wheel), str(built.sdist))
        for file in built:
            shutil.copy(file, DIST)


def _bill_of_materials(built: Distributions) -> Iterable[str]:
    file = DIST / f"bamboo_gateway-{built.version}.cdx.json"
    yield from _tool(
        "cyclonedx-py", "requirements", "requirements.lock", "--pyproject", "pyproject.toml",
        "--output-reproducible", "--spec-version", "1.6", "--output-format", "JSON",
        "--output-file", str(file), variables=fixed_time(),
    )  # fmt: skip
    if not file.is_file():
        return
    components = {one["name"]: one for one in json.loads(file.read_text("utf-8"))["components"]}
    for name in ("fastapi", "uvicorn", "pydantic"):
        if not components.get(name, {}).get("version"):
            yield f"the bill of materials lacks {name}"


def _workflow_faults() -> Iterable[str]:
    files = [str(file) for file in sorted(WORKFLOWS.glob("*.yml"))]
    forms = WORKFLOWS.parent / "ISSUE_TEMPLATE"
    for schema, checked in {
        "github-workflows": files,
        "github-issue-forms": [str(forms / "bug.yml"), str(forms / "feature.yml")],
        "github-issue-config": [str(forms / "config.yml")],
        "compose-spec": [str(REPOSITORY / "docker-compose.yml")],
    }.items():
        yield from _tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *checked)
    yield from _tool("zizmor", "--offline", "--no-progress", "--quiet", *files)


def _tool(name: str, *arguments: str, variables: dict[str, str] | None = None) -> Iterable[str]:
    """Run a tool of the release's environment; yield what it says when it fails."""
    done = subprocess.run(
        [TOOLS / name, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode != 0:
        yield f"{name}: {(done.stdout + done.stderr).strip()[-3000:]}"


if __name__ == "__main__":
    if not TOOLS.is_dir():
        sys.exit("error: the tools of a release are missing; run make release-check")
    sys.exit(main(sys.argv[1:]))

"""Build the wheel and the sdist, reproducibly, and check what is in them."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tests.processes import REPOSITORY
from versioning import VARIABLE

SOURCES: Final = {"app/bamboo_gateway": "bamboo_gateway", "clients/python/src": ""}
"""The directories that a wheel has, and where it has them."""

_OF_SDIST: Final = frozenset(
    {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "versioning.py"}
)
# hatchling adds it to every sdist: it says what is no part of the project.
_ALSO_IN_SDIST: Final = frozenset({".gitignore"})
_STRAY: Final = re.compile(
    r"(^|/)(tests?|__pycache__|node_modules|\.venv|\.git|\.DS_Store)(/|$)|\.(pyc|pyo|orig|rej|swp|env)$"
)
_MEMBER_BYTES_MAX: Final = 2_000_000
_BUILD_SECONDS: Final = 300


class Distributions(NamedTuple):
    """The files of one build."""

    wheel: Path
    sdist: Path

    @property
    def version(self) -> str:
        """The version in the wheel's name."""
        return self.wheel.name.split("-")[1]


def build(tree: Path, directory: Path, **environment: str) -> Distributions:
    """Build both from a directory, by the build backend of the lock and without a network."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", directory],
        cwd=tree,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        timeout=_BUILD_SECONDS,
    )
    (wheel,) = directory.glob("*.whl")
    (sdist,) = directory.glob("*.tar.gz")
    return Distributions(wheel, sdist)


def build_again(first: Distributions, directory: Path, **environment: str) -> Iterator[str]:
    """Build the same from the sdist, elsewhere and without git; yield what differs."""
    unpacked = directory / "sdist"
    with tarfile.open(first.sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    # Copied, so that nothing has the times of the archive.
    elsewhere = directory / "elsewhere"
    shutil.copytree(tree, elsewhere, copy_function=shutil.copyfile)
    second = build(elsewhere, directory / "again", **environment)
    for one, other in zip(first, second, strict=True):
        if one.name != other.name:
            yield f"{one.name} is called {other.name} when it is built from the sdist"
        elif digest(one) != digest(other):
            yield f"{one.name} is another file when it is built from the sdist"


def tracked_files() -> set[str]:
    """Return the files that git has or would add; without git, those that are there."""
    kinds = ["--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *kinds, *SOURCES],
        cwd=REPOSITORY,
        capture_output=True,
        check=False,
    )
    if listed.returncode == 0 and listed.stdout:
        names = set(listed.stdout.decode().split("\0")) - {""}
        return {name for name in names if (REPOSITORY / name).is_file()}
    return {
        str(path.relative_to(REPOSITORY))
        for source in SOURCES
        for path in (REPOSITORY / source).rglob("*")
        if path.is_file() and not _STRAY.search(str(path.relative_to(REPOSITORY)))
    }


def wheel_faults(built: Distributions) -> Iterator[str]:
    """Yield what is wrong with the contents of the wheel."""
    with zipfile.ZipFile(built.wheel) as archive:
        members = {member.filename: member.file_size for member in archive.infolist()}
    info = f"bamboo_gateway-{built.version}.dist-info/"
    expected = {_in_wheel(name) for name in tracked_files()}
    names = {name for name in members if not name.startswith(info)}
    yield from (f"the wheel lacks {name}" for name in sorted(expected - names))
    yield from (
        f"the wheel has {name}, which git does not have" for name in sorted(names - expected)
    )
    for package in {name.partition("/")[0] for name in names}:
        if f"{package}/py.typed" not in names:
            yield f"the wheel lacks {package}/py.typed"
    if f"{info}licenses/LICENSE" not in members:
        yield "the wheel lacks its licence"
    yield from _member_faults("the wheel", members)


def sdist_faults(built: Distributions) -> Iterator[str]:
    """Yield what is wrong with the contents of the sdist."""
    with tarfile.open(built.sdist) as archive:
        files = {member.name: member.size for member in archive.getmembers() if member.isfile()}
    members = {name.partition("/")[2]: size for name, size in files.items()}
    expected = tracked_files() | _OF_SDIST
    yield from (f"the sdist lacks {name}" for name in sorted(expected - members.keys()))
    further = members.keys() - expected - _ALSO_IN_SDIST
    yield from (f"the sdist has {name}, which is not for it" for name in sorted(further))
    yield from _member_faults("the sdist", members)


def digest(file: Path) -> str:
    """Return a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fixed_time() -> dict[str, str]:
    """Return the variables that make a build the same on every day: the time of the commit."""
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    # Without git: 1980, the first moment that a zip can have.
    seconds = done.stdout.strip() if done.returncode == 0 else "315532800"
    named = os.environ.get(VARIABLE)
    return {"SOURCE_DATE_EPOCH": seconds, **({VARIABLE: named} if named else {})}


def _in_wheel(name: str) -> str:
    for source, place in SOURCES.items():
        if name.startswith(f"{source}/"):
            return name.replace(source, place, 1).lstrip("/")
    raise ValueError(name)


def _member_faults(what: str, members: dict[str, int]) -> Iterator[str]:
    for name, size in members.items():
        if _STRAY.search(name):
            yield f"{what} has {name}"
        if size > _MEMBER_BYTES_MAX:
            yield f"{what} has {name} of {size} bytes; more than {_MEMBER_BYTES_MAX}"

"""The locks: one version per package, with the hashes of its files, and no package index."""

import re

import pytest

from tests.locks import LOCKS, pins, problems
from tests.processes import REPOSITORY

HASH = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize("name", LOCKS)
def test_every_lock_entry_is_one_version_with_its_hashes(name: str) -> None:
    text = (REPOSITORY / name).read_text("utf-8")
    assert problems(text) == []
    # By a second path: as many pins as lines that begin with a name.
    assert len(pins(text)) == len(re.findall(r"(?m)^[A-Za-z0-9]", text)) > 5


def test_every_file_of_requirements_is_checked() -> None:
    known = {REPOSITORY / name for name in LOCKS}
    found = {
        *REPOSITORY.glob("requirements*"),
        *(
            file
            for folder in ("benchmarks", "examples", "tests")
            for file in (REPOSITORY / folder).rglob("requirements*")
        ),
    }
    assert {file for file in found if file.suffix != ".in"} == known


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "anyio==4.16.0",
        f"anyio {HASH}",
        f"anyio>=4 {HASH}",
        f"anyio==4.* {HASH}",
        "anyio==4.16.0 --hash=md5:" + "0" * 32,
        "anyio==4.16.0 --hash=sha256:abc",
        f"anyio @ https://evil.example/anyio.whl {HASH}",
        f"--index-url https://evil.example/simple\nanyio==1 {HASH}",
        f"--extra-index-url=//evil.example\nanyio==1 {HASH}",
        f"-e .\nanyio==1 {HASH}",
        f"./wheels/anyio.whl {HASH}",
        f"anyio==1 {HASH} --config-settings=x",
        f"-r other.txt\nanyio==1 {HASH}",
    ],
)
def test_a_lock_entry_without_one_exact_version_is_found(entry: str) -> None:
    assert problems(entry)


def test_a_lock_entry_may_be_long_and_have_a_marker() -> None:
    pin = "colorama==0.4.6 ; sys_platform == 'win32'"
    lock = f"# by a tool\n{pin} \\\n    {HASH} \\\n    {HASH}\n    # via\n"
    assert problems(lock) == []
    assert pins(lock) == [pin]

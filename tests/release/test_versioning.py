"""The version of a build comes from the tags of git, and is one without git, too."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import versioning
from bamboo_gateway import RELEASE

NEXT = "0.3.0"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(versioning.VARIABLE, raising=False)
    # What a hook of git, or a test of one, has set would lead to another repository.
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)


def folder(directory: Path) -> Path:
    """Make a copy of what the version needs, without git, that becomes the release `NEXT`."""
    package = directory / "app" / "bamboo_gateway"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f'RELEASE = "{NEXT}"\n', "utf-8")
    return directory


def git(directory: Path, *arguments: str) -> str:
    me = ["-c", "user.name=me", "-c", "user.email=me@example.com", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *me, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = folder(tmp_path / "project")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "one")
    return root


def commit_of(root: Path) -> str:
    return git(root, "rev-parse", "--short=12", "HEAD")


def test_a_clone_without_tags_has_a_development_version_that_names_its_commit(
    repository: Path,
) -> None:
    assert versioning.version(repository) == f"{NEXT}.dev0+g{commit_of(repository)}"


@pytest.mark.parametrize("tag", ["v0.3.0", "v0.3.0rc1"])
def test_a_tag_is_the_version_unless_something_is_changed(repository: Path, tag: str) -> None:
    git(repository, "tag", tag)
    assert versioning.version(repository) == tag[1:]
    (repository / "app" / "bamboo_gateway" / "__init__.py").write_text(
        'RELEASE = "0.3.0"\n#', "utf-8"
    )
    assert versioning.version(repository).endswith(".changed")


@pytest.mark.parametrize(
    ("tag", "before"), [("v0.2.0", NEXT), ("v0.3.0", "0.3.1"), ("v0.10.4", "0.10.5")]
)
def test_after_a_tag_comes_the_next_release(repository: Path, tag: str, before: str) -> None:
    git(repository, "tag", tag)
    git(repository, "tag", "not-a-version")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "two")
    assert versioning.version(repository) == f"{before}.dev1+g{commit_of(repository)}"


def test_a_copied_folder_has_a_version_without_git(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert versioning.version(folder(tmp_path / "plain")) == f"{NEXT}.dev0"
    git(repository, "tag", "v9.0.0")
    inside = folder(repository / "vendor" / "gateway")
    assert versioning.version(inside) == f"{NEXT}.dev0", "another project's tags say nothing"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("git") is None
    assert versioning.version(repository) == f"{NEXT}.dev0"


def test_an_sdist_and_a_packager_say_the_version(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(repository, "tag", "v0.3.0")
    (repository / "PKG-INFO").write_text("Metadata-Version: 2.4\nVersion: 0.2.9\n", "utf-8")
    assert versioning.version(repository) == "0.2.9"
    monkeypatch.setenv(versioning.VARIABLE, "v0.2.8")
    assert versioning.version(repository) == "0.2.8"
    monkeypatch.setenv(versioning.VARIABLE, "latest; rm -rf /")
    with pytest.raises(ValueError, match="GATEWAY_BUILD_VERSION is no version"):
        versioning.version(repository)


def test_the_release_has_three_numbers() -> None:
    assert versioning.release() == RELEASE
    assert re.fullmatch(r"\d+\.\d+\.\d+", RELEASE)

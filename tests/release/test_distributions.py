"""What a release publishes: the same files on every day, with everything that belongs to them."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.processes import REPOSITORY
from tests.release.distributions import (
    Distributions,
    build,
    build_again,
    fixed_time,
    sdist_faults,
    wheel_faults,
)
from versioning import VARIABLE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    return build(REPOSITORY, tmp_path_factory.mktemp("dist"), **fixed_time())


def test_both_distributions_have_what_the_repository_has_and_nothing_else(
    built: Distributions,
) -> None:
    assert list(wheel_faults(built)) == []
    assert list(sdist_faults(built)) == []


def test_a_build_from_the_sdist_without_git_gives_the_same_bytes(
    built: Distributions, tmp_path: Path
) -> None:
    assert list(build_again(built, tmp_path, **fixed_time())) == []


def test_what_is_missing_or_too_much_is_found(built: Distributions, tmp_path: Path) -> None:
    wheel = Path(shutil.copy(built.wheel, tmp_path))
    with zipfile.ZipFile(built.wheel) as whole, zipfile.ZipFile(wheel, "w") as changed:
        for member in whole.infolist():
            if member.filename != "bamboo_gateway/py.typed":
                changed.writestr(member, whole.read(member))
        changed.writestr("tests/test_x.py", "")
        changed.writestr("bamboo_gateway/__pycache__/x.pyc", "")
    found = list(wheel_faults(Distributions(wheel, built.sdist)))
    assert "the wheel lacks bamboo_gateway/py.typed" in found
    assert "the wheel has tests/test_x.py, which git does not have" in found
    assert "the wheel has bamboo_gateway/__pycache__/x.pyc" in found


def test_the_image_is_built_from_everything_that_the_wheel_has(
    built: Distributions, tmp_path: Path
) -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*", "nothing but what is named"
    assert "\nCOPY . .\n" in (REPOSITORY / "Dockerfile").read_text("utf-8")
    context = tmp_path / "context"
    for name in (line[1:] for line in ignored if line.startswith("!")):
        source, target = REPOSITORY / name, context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        elif source.exists():
            shutil.copyfile(source, target)
    image = build(context, tmp_path / "dist", **{VARIABLE: "1.2.3"})
    assert image.version == "1.2.3"
    assert list(wheel_faults(image)) == []

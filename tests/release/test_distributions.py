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

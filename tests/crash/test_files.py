"""R1, R9, R10: kill -9 between every two calls of an upload and of a message that names it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, environment


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["jsonl", "sqlite", "postgresql"])
def test_an_upload_that_is_killed_anywhere_is_whole_or_gone(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """What was acknowledged is there, no message lacks its file, and the sweep leaves nothing."""
    url = [request.getfixturevalue("postgres_url")] if kind == "postgresql" else []
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.file_kills", str(tmp_path), kind, *url],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 30

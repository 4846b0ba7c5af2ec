"""Directories that earlier versions left: they open without loss, also when that is cut short."""

import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from bamboo_gateway.storage.jsonl.store import JsonlStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.storage.conftest import Opener
from tests.storage.directories.make_directory import shown
from tests.storage.test_search_index import asking, found, whole
from tests.storage.writing import NOBODY

HERE = Path(__file__).parent / "directories"
SHOWN = json.loads((HERE / "before-search.json").read_bytes())

# Opens the directory and says so; then it reads all sessions for the search index.
OPENING = """
import asyncio, sys
from pathlib import Path
from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.writing import StepClock

async def main():
    store = JsonlStore(Path(sys.argv[1]), StepClock())
    print("now", flush=True)
    await store.open()
    print("now", flush=True)
    store._search_index.write()
    print("now", flush=True)
    await store._search_index.caught_up()
    print("now", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def earlier(data_dir: Path) -> Path:
    with tarfile.open(HERE / "before-search.tar.xz") as tar:
        tar.extractall(data_dir.parent, filter="data")
    return data_dir


async def check(store: JsonlStore) -> None:
    assert await shown(store, sorted(SHOWN)) == SHOWN
    page = await store.query(SessionQuery(archived="include", sort_by="title"), NOBODY)
    assert {head.id for head in page.heads} == set(SHOWN)
    assert await store.unfinished() == ["unfinished"]
    await whole(store)
    hits = await found(store, asking("apple", archived="include"))
    assert sorted(hit[0] for hit in hits) == ["archived", "fork", "plain"]
    assert [hit[0] for hit in await found(store, asking("kpr", archived="include"))] == []
    assert [hit[:3:2] for hit in await found(store, asking("after the"))] == [("plain", 4)]
    shared = SessionQuery(shared_with="ann", shared_at=store._clock.now_ms())
    assert [head.id for head in (await store.query(shared, NOBODY)).heads] == ["shared"]


async def test_a_directory_of_an_earlier_version_opens_without_loss(
    opener: Opener, earlier: Path
) -> None:
    quarantined = sorted(file.name for file in (earlier / "quarantine").iterdir())
    assert quarantined, "the directory has something in quarantine"
    store = await opener()
    await check(store)
    await store.aclose()
    await check(await opener())
    assert sorted(file.name for file in (earlier / "quarantine").iterdir()) == quarantined


@pytest.mark.parametrize("when", range(4))
async def test_a_kill_while_an_earlier_directory_is_opened_loses_nothing(
    opener: Opener, earlier: Path, when: int
) -> None:
    kill_opening(earlier, when)
    await check(await opener())


def kill_opening(root: Path, when: int) -> None:
    """Open a directory in a process of its own, and kill that at one of its steps."""
    command = [sys.executable, "-c", OPENING, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=HERE.parents[2]) as process:
        assert process.stdout is not None
        # The log is among the lines.
        for _ in range(when + 1):
            while (line := process.stdout.readline()) != b"now\n":
                assert line, "the process has ended"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL

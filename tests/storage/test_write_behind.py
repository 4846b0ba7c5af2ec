"""Log files lag behind the journal, which is durable (R1), within bounds; segments are reused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

from bamboo_gateway.storage.jsonl.store import JsonlStore
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon, write_out
from tests.storage.writing import (
    DEADLINE_SECONDS,
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    everything,
    message,
    seqs,
    token,
)
from tests.support.waiting import until


@pytest.fixture
def never_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the committer from writing logs in idle time, as load does."""
    monkeypatch.setattr(
        "bamboo_gateway.storage.jsonl.journal.committer._REST_SECONDS", DEADLINE_SECONDS
    )


async def turns(store: JsonlStore) -> None:
    """Wait until the committer has finished the batch of the last answer."""
    for _ in range(2):
        await store._committer.send(lambda: None)


def lines_in(path: Path) -> int:
    """Return the number of event lines in the file of a log."""
    return max(path.read_bytes().count(b"\n") - 1, 0) if path.exists() else 0


@pytest.mark.usefixtures("never_at_rest")
async def test_a_busy_log_is_written_once_for_many_commits_and_read_whole_meanwhile(
    opener: Opener, data_dir: Path, clock: StepClock
) -> None:
    store = await opener()
    path = data_dir / "events" / "busy.jsonl"
    busy = Writer("busy", store.next_epoch())
    for number in range(10):
        await committed(store, busy.commit(token(str(number))))
    await turns(store)
    assert lines_in(path) == 0
    assert await seqs(store, "busy") == list(range(1, 12))
    clock.ms += 1000
    await committed(store, Writer("other", store.next_epoch()).commit())
    await turns(store)
    assert lines_in(path) == 11
    # From here on partly in the file, partly in memory.
    await committed(store, busy.commit(message("m1")))
    assert await seqs(store, "busy") == list(range(1, 13))
    [found] = await store.find("busy", busy.head.epoch, "message", key="m1")
    assert found.seq == 12
    assert lines_in(path) == 11


async def answers_of(store: JsonlStore, writer: Writer) -> list[object]:
    """Ask for a session in every way that reads its log."""
    session, epoch = writer.head.id, writer.head.epoch
    return [
        await store.read(session, epoch, 0, limit=2, max_bytes=1 << 20),
        await everything(store, session),
        await store.find(session, epoch, "message"),
        await store.find(session, epoch, "message", key="m1", reverse=True),
        await store.find(session, epoch, "message", key="m9"),
        await store.find(session, epoch, "note", key="key"),
        await store.count_marks(session, epoch, "message"),
        await store.keys_in_use(session, epoch, "message", ["m1", "m9"]),
    ]


@pytest.mark.usefixtures("never_at_rest")
async def test_a_short_log_in_memory_alone_is_read_without_a_thread(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12: nothing is opened on the event loop; files give the same answers later."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1"), note="key"))
    await committed(store, writer.commit(token(), message("m2")))

    in_thread = store._reads.run
    hops = 0

    async def counted(function: Callable[..., Any], *arguments: Any) -> Any:
        nonlocal hops
        hops += 1
        return await in_thread(function, *arguments)

    monkeypatch.setattr(store._reads, "run", counted)
    in_memory = await answers_of(store, writer)
    assert hops == 0
    assert await store.checkpoint()
    assert await answers_of(store, writer) == in_memory
    assert hops > 0


@pytest.mark.usefixtures("never_at_rest")
async def test_a_long_log_is_not_read_on_the_event_loop(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R12."""
    store = await opener()
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1", "x" * 40_000)))
    monkeypatch.setattr(store._writer, "copy_in_memory", None)
    assert len(await store.find("s-1", writer.head.epoch, "message")) == 1


@pytest.mark.usefixtures("never_at_rest")
async def test_the_pending_lines_of_a_log_are_bounded(opener: Opener, data_dir: Path) -> None:
    """R11."""
    store = await opener()
    big = Writer("big", store.next_epoch())
    for _ in range(6):
        await committed(store, big.commit(token("x" * 100_000)))
        await turns(store)
        log = store._table.logs["big"]
        assert log.size - log.written < 256 * 1024
    assert (data_dir / "events" / "big.jsonl").stat().st_size > 500_000


async def test_at_rest_files_are_current_without_another_commit(
    opener: Opener, data_dir: Path
) -> None:
    store = await opener()
    writers = [Writer(f"s-{number}", store.next_epoch()) for number in range(20)]
    answers = [append(store, writer.commit(token())) for writer in writers]
    for answer in answers:
        assert await answer_to(answer) is None
    paths = [data_dir / "events" / f"{writer.head.id}.jsonl" for writer in writers]
    await anyio.to_thread.run_sync(
        until,
        lambda: [lines_in(path) for path in paths] == [2] * len(paths),
        "the files are current",
        DEADLINE_SECONDS,
    )


@pytest.mark.usefixtures("never_at_rest")
async def test_a_log_that_could_not_be_written_in_time_is_written_by_the_checkpoint(
    opener: Opener, data_dir: Path
) -> None:
    """R10."""
    fails = True

    def should_fail(_: int, operation: str, path: str) -> int | None:
        return 5 if fails and operation == "write" and "/events/" in path else None

    store = await opener(FaultyFileSystem(should_fail))
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(token()))
    await write_out(store)
    assert await seqs(store, "s-1") == [1, 2]
    fails = False
    assert await store.checkpoint()
    assert lines_in(data_dir / "events" / "s-1.jsonl") == 2
    assert (await store.stats())["quarantined"] == 0


@pytest.mark.usefixtures("never_at_rest")
async def test_segments_are_reused_and_none_of_their_old_content_is_left(
    opener: Opener, data_dir: Path
) -> None:
    allocated: list[str] = []

    class Watching(FaultyFileSystem):
        @override
        def allocate(self, fd: int, size: int) -> None:
            allocated.append(Path(self._names[fd]).name)

    store = await opener(Watching())
    writer = Writer("s-1", store.next_epoch())
    for number in range(6):
        # Shorter each time: what the longer ones before have written is behind its end.
        await committed(store, writer.commit(token(f"secret-{number} " * (60 - 10 * number))))
        assert await store.checkpoint()
        spares = [path.read_bytes() for path in (data_dir / "index" / "aside").glob("spare-*")]
        assert not any(spare.strip(b"\0") for spare in spares)
        assert len(spares) <= 2
    assert len([name for name in allocated if name.startswith("journal-")]) <= 2
    await committed(store, writer.commit(token("last")))
    await abandon(store)
    fresh = await opener()
    report = fresh.report  # type: ignore[attr-defined]
    assert (report.damaged, report.torn_bytes) == ([], 0)
    assert await seqs(fresh, "s-1") == list(range(1, 9))

"""Directories of an earlier gateway: opened as they are, checked once, repaired."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import override

from bamboo_gateway.domain import codec
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.index.catalog_file import CatalogFile
from bamboo_gateway.storage.jsonl.index.catalog_lines import FORMAT, EntryState
from bamboo_gateway.storage.jsonl.paths import Paths
from bamboo_gateway.storage.jsonl.snapshots import is_whole
from bamboo_gateway.storage.lines import to_line
from tests.storage.conftest import Opener
from tests.storage.faults import FaultyFileSystem, abandon
from tests.storage.test_doctor import check
from tests.storage.test_handovers import found_in
from tests.storage.writing import Writer, committed, complete, message, run_start, token

MARK_BYTES = 32


async def leave_three_sessions(
    opener: Opener, data_dir: Path
) -> dict[str, dict[str, list[object]]]:
    """Leave a directory as an earlier gateway would; return what its sessions show."""
    store = await opener()
    shown: dict[str, dict[str, list[object]]] = {}
    for name in ("whole", "marked", "packed"):
        writer = Writer(name, store.next_epoch())
        await committed(store, writer.commit(message("m1"), note="k1"))
        await committed(store, writer.commit(run_start("run_1"), token("a")))
        await committed(store, writer.commit(message("m2"), message("m3"), complete("run_1")))
        await store.release(name)
        shown[name] = await found_in(store, name)
    await store.pack("packed", shown["packed"]["head"][0])  # type: ignore[arg-type]
    await store.aclose()
    write_format(Paths(data_dir), 1)
    return shown


def write_format(paths: Paths, number: int) -> None:
    """Write into the catalog which gateway wrote last."""
    file = CatalogFile(FileSystem(), paths, keeps_heads=True)
    contents = file.load()
    checkpoint = {"checkpoint": contents.lsn, "epoch": contents.last_epoch}
    said = checkpoint if number == 1 else checkpoint | {"format": number}
    with paths.catalog.open("ab") as catalog:
        catalog.write(to_line(codec.encode(said)))


def count_marks(paths: Paths, name: str, added: int) -> None:
    """Make the catalog count more marks, or fewer."""
    file = CatalogFile(FileSystem(), paths, keeps_heads=True)
    contents = file.load()
    entry = contents.entries[name]
    entry.marks += added
    file.append([EntryState.of(entry)], [], contents.lsn, contents.last_epoch)
    file.close()


def double_marks(paths: Paths) -> None:
    """Double marks as a replay on top of them did: in the mark file and the later snapshot."""
    mark_file = paths.marks_of("marked")
    with mark_file.open("ab") as file:
        file.write(mark_file.read_bytes()[-3 * MARK_BYTES :])
    count_marks(paths, "marked", 3)
    snapshot = paths.snapshot_of("marked")
    head, *lines, end, rest = snapshot.read_bytes().split(b"\n")
    doubled = [head, *lines[:-1], lines[-1] + b",", *lines[1:], end, rest]
    snapshot.write_bytes(b"\n".join(doubled))
    assert not is_whole(FileSystem(), paths, "marked")


def lack_marks(paths: Paths) -> None:
    """Leave a mark file as a checkpoint did that counted a log's bytes without their marks."""
    count_marks(paths, "marked", -2)


def tear_marks(paths: Paths) -> None:
    mark_file = paths.marks_of("marked")
    mark_file.write_bytes(mark_file.read_bytes()[:-MARK_BYTES])


@pytest.mark.parametrize("index_enabled", [True, False])
@pytest.mark.parametrize("harm", [double_marks, lack_marks, tear_marks])
async def test_marks_that_do_not_fit_are_found_once_rebuilt_and_reported(
    opener: Opener, data_dir: Path, harm: Callable[[Paths], None], *, index_enabled: bool
) -> None:
    """R2: each message once, in pages as in the log."""
    before = await leave_three_sessions(opener, data_dir)
    harm(Paths(data_dir))
    write_format(Paths(data_dir), 1)
    store = await opener(index_enabled=index_enabled)
    report = store.report  # type: ignore[attr-defined]
    assert (report.mended_indexes, report.new_epochs, report.quarantined) == (1, 0, [])
    assert {name: await found_in(store, name) for name in ("whole", "marked")} == {
        name: before[name] for name in ("whole", "marked")
    }
    await store.aclose()
    assert check(data_dir) == []
    again = await opener(index_enabled=index_enabled)
    assert again.report.mended_indexes == 0  # type: ignore[attr-defined]
    assert await found_in(again, "marked") == before["marked"]


async def test_a_correct_directory_opens_and_is_marked_as_checked(
    opener: Opener, data_dir: Path
) -> None:
    before = await leave_three_sessions(opener, data_dir)
    assert check(data_dir) == []
    store = await opener()
    assert store.report.mended_indexes == 0  # type: ignore[attr-defined]
    assert {name: await found_in(store, name) for name in before} == before
    await abandon(store)
    contents = CatalogFile(FileSystem(), Paths(data_dir), keeps_heads=True).load()
    assert contents.format == FORMAT


async def test_a_session_that_is_only_checked_is_correct_afterwards(
    opener: Opener, data_dir: Path
) -> None:
    await leave_three_sessions(opener, data_dir)
    double_marks(Paths(data_dir))
    write_format(Paths(data_dir), 1)
    assert [finding.severity for finding in check(data_dir)] == ["warn", "warn"]
    await (await opener()).aclose()
    assert check(data_dir) == []


async def test_the_doctor_repairs_the_marks_of_an_earlier_gateway(
    opener: Opener, data_dir: Path
) -> None:
    before = await leave_three_sessions(opener, data_dir)
    double_marks(Paths(data_dir))
    write_format(Paths(data_dir), 1)
    assert [(one.subject, one.repaired) for one in check(data_dir, repair=True)] == [
        ("index/marks", True)
    ]
    assert check(data_dir) == []
    store = await opener()
    assert await found_in(store, "marked") == before["marked"]


async def test_a_later_start_checks_no_mark_file(opener: Opener, data_dir: Path) -> None:
    """So the time for a start grows only with the catalog."""
    opened: Counter[str] = Counter()

    class Watching(FaultyFileSystem):
        @override
        def open(self, path: Path, flags: int) -> int:
            opened[path.parent.name] += 1
            return super().open(path, flags)

    await leave_three_sessions(opener, data_dir)
    await (await opener()).aclose()
    await abandon(await opener(Watching()))
    assert not {"marks", "events", "sessions"} & opened.keys()

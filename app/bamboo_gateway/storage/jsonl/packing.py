"""Packs the files of archived sessions into bundles; unpacking restores exactly the same bytes."""

from pathlib import Path

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import BundleView, BundleWriter
from bamboo_gateway.storage.jsonl.file_swap import FileSwap
from bamboo_gateway.storage.jsonl.index.catalog import Entry
from bamboo_gateway.storage.jsonl.log.log import Log, LogWriter


def prepare_pack(
    fs: FileSystem,
    writer: LogWriter,
    log: Log,
    size: int,
    entry: Entry,
    head: SessionHead,
    aside: Path,
) -> FileSwap:
    """Write the bundle of a log's first `size` bytes aside; on a thread for bulk work.

    Raises:
        OSError: The bundle could not be written.
        DamagedError, LogReplacedError: The log is damaged, or was replaced.
    """
    swap = FileSwap("pack", entry, log.generation, head, aside)
    view = writer.view(log, size)
    try:
        bundle = BundleWriter(fs, aside)
        try:
            about = {"session": head.id, "epoch": head.epoch, "head": head.to_json()}
            done = bundle.write(view, about)
        finally:
            bundle.close()
        fs.sync_directory(aside.parent)
    except BaseException:
        fs.unlink(aside)
        raise
    finally:
        view.close()
    swap.size, swap.bundle = view.end, done.size
    swap.marks, swap.deltas = done.marks, done.deltas
    return swap


def prepare_unpack(
    fs: FileSystem, log: Log, entry: Entry, head: SessionHead, aside: Path
) -> FileSwap:
    """Write the log and the marks of a bundle aside; on a thread for bulk work.

    Raises:
        OSError: They could not be written.
        DamagedError, LogReplacedError: The bundle is damaged, or was replaced.
    """
    mark_file = aside.with_name(f"{aside.name}.idx")
    swap = FileSwap("unpack", entry, log.generation, head, aside, mark_file)
    view = BundleView(fs, log.path, log.epoch)
    try:
        swap.size = fs.write_pieces(aside, view.blocks())
        fs.write_pieces(mark_file, view.mark_blocks())
        fs.sync_directory(aside.parent)
    except BaseException:
        for path in swap.files:
            fs.unlink(path)
        raise
    finally:
        view.close()
    swap.marks, swap.deltas = view.about["marks"], view.about["deltas"]
    return swap

"""Packs the files of archived sessions into bundles; unpacking restores exactly the same bytes."""

from pathlib import Path

from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.jsonl.bundle import BundleView, BundleWriter
from bamboo_gateway.storage.jsonl.file_swap import FileSwap
from bamboo_gateway.storage.jsonl.files import FileSystem
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
    exchange = FileSwap("pack", entry, log.generation, head, aside)
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
    exchange.size, exchange.bundle = view.end, done.size
    exchange.marks, exchange.deltas = done.marks, done.deltas
    return exchange


def prepare_unpack(
    fs: FileSystem, log: Log, entry: Entry, head: SessionHead, aside: Path
) -> FileSwap:
    """Write the log and the marks of a bundle aside; on a thread for bulk work.

    Raises:
        OSError: They could not be written.
        DamagedError, LogReplacedError: The bundle is damaged, or was replaced.
    """
    sidecar = aside.with_name(f"{aside.name}.idx")
    exchange = FileSwap("unpack", entry, log.generation, head, aside, sidecar)
    view = BundleView(fs, log.path, log.epoch)
    try:
        exchange.size = fs.write_pieces(aside, view.blocks())
        fs.write_pieces(sidecar, view.mark_blocks())
        fs.sync_directory(aside.parent)
    except BaseException:
        for path in exchange.files:
            fs.unlink(path)
        raise
    finally:
        view.close()
    exchange.marks, exchange.deltas = view.about["marks"], view.about["deltas"]
    return exchange

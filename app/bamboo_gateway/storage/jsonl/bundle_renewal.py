"""Gives a bundle a new epoch: copies its log with another epoch in the first line."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.storage.file_system import FileSystem
from bamboo_gateway.storage.jsonl.bundle import Bundled, BundleView, BundleWriter
from bamboo_gateway.storage.jsonl.log.log import LogView, make_header, read_header
from bamboo_gateway.storage.jsonl.log.reader import DamagedError
from bamboo_gateway.storage.lines import body_of

NewHeader = Callable[[bytes, int], bytes]
"""Returns the first line of a log with another epoch."""


def renew_bundle(
    fs: FileSystem,
    source: Path,
    target: Path,
    aside: Path,
    epoch: int,
    head: SessionHead | None = None,
    new_header: NewHeader | None = None,
) -> tuple[SessionHead, int, Bundled]:
    """Write a bundle with the same log under a new epoch, and sync it.

    Args:
        fs: The file system.
        source: The bundle.
        target: The new bundle, another file.
        aside: A file for the unpacked log meanwhile; it is removed.
        epoch: The new epoch.
        head: The session's head; None is the one in the bundle.
        new_header: Makes the first line; it may raise what its caller understands.

    Returns:
        The head as it is in the new bundle, the bytes of the log, and the sizes of the bundle.

    Raises:
        DamagedError, LogReplacedError: The bundle is damaged.
        OSError: The new one could not be written.
    """
    try:
        view = BundleView(fs, source, None)
        try:
            renewed = SessionHead.of(view.about["head"]) if head is None else head.copy()
            renewed.epoch = epoch
            fs.write_pieces(aside, _blocks(view, epoch, new_header or header_of_epoch))
        finally:
            view.close()
        size = fs.size(aside) or 0
        log = LogView(fs, aside, epoch, size, b"", size)
        writer = BundleWriter(fs, target)
        try:
            about = {"session": renewed.id, "epoch": epoch, "head": renewed.to_json()}
            return renewed, size, writer.write(log, about)
        finally:
            writer.close()
            log.close()
    finally:
        fs.unlink(aside)


def header_of_epoch(line: bytes, epoch: int) -> bytes:
    """Return the first line of a log with another epoch.

    Raises:
        DamagedError: It is no first line of a log.
    """
    named = read_header(line)
    if named is None:
        raise DamagedError(0)
    return make_header(named[0], epoch, codec.decode(body_of(line))["created"])


def _blocks(view: BundleView, epoch: int, new_header: NewHeader) -> Iterator[bytes]:
    rest = view.begin
    yield new_header(view.read(0, view.begin), epoch)
    for block in view.blocks():
        if rest:
            yield block[rest:]
            rest = 0
        else:
            yield block

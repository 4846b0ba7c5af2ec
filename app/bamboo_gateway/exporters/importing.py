"""Detect the format of a document, and read its sessions.

A new format is one file, and one entry here.
"""

import re
from typing import Any, Final

from bamboo_gateway.domain.errors import InvalidInput, TooLarge
from bamboo_gateway.exporters.document import MARK
from bamboo_gateway.exporters.document_reader import read_document
from bamboo_gateway.exporters.foreign.base import ForeignReader, Source
from bamboo_gateway.exporters.foreign.chatgpt import ChatGptReader
from bamboo_gateway.exporters.foreign.claude_code import ClaudeCodeReader
from bamboo_gateway.exporters.foreign.codex import CodexReader
from bamboo_gateway.exporters.foreign.goose import GooseReader
from bamboo_gateway.exporters.imported import ImportedDocument, Notes, NotUnderstood
from bamboo_gateway.exporters.safe_yaml import load_yaml

_READERS: Final[tuple[ForeignReader, ...]] = (
    ChatGptReader(),
    CodexReader(),
    ClaudeCodeReader(),
    GooseReader(),
)
IMPORT_FORMATS: Final = ("json", "yaml", *(reader.format for reader in _READERS))
_ACCEPTED: Final = "an export of Bamboo (JSON or YAML), " + ", ".join(
    reader.title for reader in _READERS
)
PARTS_FREE: Final = 200_000
BYTES_PER_PART_MIN: Final = 5
"""The fewest bytes per object, array, member or line, on average. Real documents have twenty and
more. A document of nothing but such tiny parts takes sixty times its size in memory.
"""
BYTES_PER_NESTED_MIN: Final = 12
"""The fewest bytes per object or array, which cost the most memory. With this bound a document
takes about ten times its size. In real documents each has thirty bytes and more."""

_OWN_YAML: Final = re.compile(rb"^[\"']?" + MARK.encode() + rb"[\"']?\s*:", re.MULTILINE)


def read_import(data: bytes, format_name: str | None = None, *, now_ms: int) -> ImportedDocument:
    """Read every session of a document.

    This computes over the whole document; call it in a worker thread (R12).

    Args:
        data: The document.
        format_name: One of `IMPORT_FORMATS`; None detects the format from the content.
        now_ms: The time of sessions that have none.

    Returns:
        At least one session, and notes on what was not understood of a foreign format.

    Raises:
        InvalidInput: The format is unknown, or the document does not have it. For the gateway's own
            formats: anything in the document is wrong. Nothing may be stored then.
        TooLarge: The YAML is too large, or the document consists of too many tiny parts.
    """
    parts = sum(data.count(mark) for mark in (b"[", b"{", b":", b"\n"))
    nested = data.count(b"[") + data.count(b"{")
    if (parts > PARTS_FREE and parts * BYTES_PER_PART_MIN > len(data)) or (
        nested > PARTS_FREE and nested * BYTES_PER_NESTED_MIN > len(data)
    ):
        raise TooLarge("The document has too many parts for its size; leave out what is empty.")
    name = format_name.replace("_", "-") if format_name else None
    if name is not None and name not in IMPORT_FORMATS:
        raise InvalidInput(f"No such import format; use one of {', '.join(IMPORT_FORMATS)}.")
    source = Source(data.removeprefix(b"\xef\xbb\xbf"))
    if name == "yaml" or (name is None and source.value is None and _OWN_YAML.search(source.data)):
        document = load_yaml(_text(source.data))
        return ImportedDocument("yaml", (read_document(document, counted=True),))
    if name == "json" or (name is None and _is_own(source.value)):
        if source.value is None:
            _text(source.data)
            raise InvalidInput("Not JSON, or cut off before its end.")
        return ImportedDocument("json", (read_document(source.value, counted=False),))
    for reader in _READERS:
        if reader.format == name or (name is None and reader.recognizes(source)):
            return _read(reader, source, now_ms)
    raise InvalidInput(f"The document has no known format. Known are: {_ACCEPTED}.")


def _read(reader: ForeignReader, source: Source, now_ms: int) -> ImportedDocument:
    notes = Notes()
    try:
        sessions = reader.read(source, notes, now_ms)
    except NotUnderstood as error:
        raise InvalidInput(f"This is not {reader.title}: {error}.") from error
    if not sessions:
        errors = [{"loc": [note.place], "msg": note.what} for note in notes.all()]
        raise InvalidInput(f"Nothing is said in it, though it is {reader.title}.", errors=errors)
    return ImportedDocument(reader.format, tuple(sessions), notes.all())


def _is_own(value: Any) -> bool:
    return isinstance(value, dict) and MARK in value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput("The document is not UTF-8.") from error

"""JSON without loss, one message a line: it can be streamed, and read with grep and diff."""

from collections.abc import Sequence
from typing import ClassVar

from typing_extensions import override

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.exporters.base import DocumentHead, Exporter, JsonObject
from bamboo_gateway.exporters.document import head_members


class JsonExporter(Exporter):
    """Writes the shape of `document` as JSON."""

    format: ClassVar[str] = "json"
    media_type: ClassVar[str] = "application/json"
    suffix: ClassVar[str] = ".json"

    def __init__(self) -> None:
        self._count = 0

    @override
    def begin(self, head: DocumentHead) -> bytes:
        members = head_members(head).items()
        lines = [b'"%b":%b,\n' % (name.encode(), encode(value)) for name, value in members]
        return b"{" + b"".join(lines) + b'"messages":['

    @override
    def add(self, messages: Sequence[JsonObject]) -> bytes:
        written = bytearray()
        for message in messages:
            written += b",\n" if self._count else b"\n"
            written += encode(message)
            self._count += 1
        return bytes(written)

    @override
    def end(self) -> bytes:
        return b'\n],\n"message_count":%d}\n' % self._count

"""The contract of exporters, which write a session as a document, page by page.

An exporter is synchronous code that writes one document. `stream` drives it: it takes the messages
in pages, encodes each page in a worker thread (R12), and yields the bytes in pieces no larger than
one send. So a session of any length costs the memory of one page.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, final

import anyio
import anyio.to_thread

from bamboo_gateway.domain.limits import SEND_BYTES_MAX

JsonObject = dict[str, Any]

MOMENTARY = frozenset(
    {"state", "expires_at", "active_run_id", "stream_after", "messages", "preview"}
)
"""Members of a Session that are true only now and only in this gateway, or said by others."""

IF_ANY = frozenset({"open_requests"})
"""Members of a Session that a document has only when they are not empty. An import closes the calls
that the requests name: nobody answers them in the copy."""

BARE_SESSION = frozenset({"id", "title", "created_at", "updated_at", "last_activity_at"})
"""Members of a Session that a document without metadata has. The list names what stays, so that a
member that is added later stays out until somebody decides."""

BARE_MESSAGE = frozenset(
    {"id", "role", "content", "tool_calls", "tool_call_id", "status", "created_at"}
)
"""Members of a Message that a document without metadata has: what was said, by whom and when."""


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A session to export.

    Attributes:
        session: The Session of the API (docs/reference/shapes.md).
        messages: Its Messages in order, in pages. The next page is read only when the reader of the
            document has taken the page before, so nothing is read ahead. The iterator is closed,
            however the document ends.
        summary: The saved summary, if there is one; written unchanged.
        lineage: Ancestors and merges, which the session's `parent` lacks; written unchanged.
        branches: The branches, when `messages` has those of all of them; written unchanged.
        include_metadata: Whether the document holds more than the session's id, title and times and
            what was said. Without it the document names no owner, directory, summary, lineage,
            model, usage or run.
        include_tool_calls: Whether tool calls and their results are written. Without them an
            assistant message that says nothing else is left out as well.
    """

    session: Mapping[str, Any]
    messages: AsyncGenerator[Sequence[JsonObject]]
    summary: Mapping[str, Any] | None = None
    lineage: JsonObject | None = None
    branches: JsonObject | None = None
    include_metadata: bool = True
    include_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class Export:
    """A document that is being written. It holds one page of the session in memory.

    Attributes:
        file_name: The document's name.
        disposition: The same as a `Content-Disposition`.
        media_type: Its media type.
        chunks: Its bytes. Their consumer closes the generator, also before its end.
    """

    file_name: str
    disposition: str
    media_type: str
    chunks: AsyncGenerator[bytes]


@dataclass(frozen=True, slots=True)
class DocumentHead:
    """The part of a document before the messages, with the options applied.

    Without metadata there is neither summary nor lineage, and the session has `BARE_SESSION`.
    """

    session: dict[str, Any]
    summary: Mapping[str, Any] | None
    lineage: JsonObject | None
    branches: JsonObject | None = None
    include_metadata: bool = True


class Exporter(ABC):
    """Write one session as one document. An instance is used once.

    The calls come in order: `begin`, any number of `add`, `end`. Their results, joined, are the
    document. Each call may run in another thread, but never two at a time. A call that raises
    writes nothing, and the exporter cannot be used after it.

    Attributes:
        format: The name of the format in requests.
        media_type: The `Content-Type` of the document.
        suffix: The suffix of the file's name, with the dot.
    """

    format: ClassVar[str]
    media_type: ClassVar[str]
    suffix: ClassVar[str]

    @abstractmethod
    def begin(self, head: DocumentHead) -> bytes:
        """Return everything before the first message."""

    @abstractmethod
    def add(self, messages: Sequence[JsonObject]) -> bytes:
        """Return the next messages. May hold back, within bounds, what belongs with later ones."""

    @abstractmethod
    def end(self) -> bytes:
        """Return what was held back, and the end of the document.

        Every format marks its end here, so that a document that was cut is not imported.
        """

    @final
    async def stream(
        self, source: ExportSource, *, limiter: anyio.CapacityLimiter | None = None
    ) -> AsyncGenerator[bytes]:
        """Return the document in pieces of at most `SEND_BYTES_MAX`.

        An error of `source.messages` is raised here and leaves the document without its end.
        Closing the generator early leaves nothing behind. While nobody takes the next piece, the
        generator holds the written bytes of one page and nothing else.

        Args:
            source: The session to write.
            limiter: Bounds the worker threads that encode; the default is the process-wide one.
        """
        async with aclosing(source.messages) as pages:
            head = _head_of(source)
            for piece in _pieces(await anyio.to_thread.run_sync(self.begin, head, limiter=limiter)):
                yield piece
            async for page in pages:
                written = await anyio.to_thread.run_sync(self._add, source, page, limiter=limiter)
                del page
                for piece in _pieces(written):
                    yield piece
        for piece in _pieces(await anyio.to_thread.run_sync(self.end, limiter=limiter)):
            yield piece

    def _add(self, source: ExportSource, page: Sequence[JsonObject]) -> bytes:
        if source.include_metadata and source.include_tool_calls:
            return self.add(page)
        kept = (_reduced(message, source) for message in page)
        return self.add([message for message in kept if message is not None])


def _head_of(source: ExportSource) -> DocumentHead:
    if source.include_metadata:
        session = {
            name: value
            for name, value in source.session.items()
            if name not in MOMENTARY and (value or name not in IF_ANY)
        }
        return DocumentHead(session, source.summary, source.lineage, source.branches)
    bare = {name: value for name, value in source.session.items() if name in BARE_SESSION}
    return DocumentHead(bare, None, None, include_metadata=False)


def _reduced(message: JsonObject, source: ExportSource) -> JsonObject | None:
    """Return a message without what the options leave out; None when nothing is left."""
    left_out = set() if source.include_metadata else message.keys() - BARE_MESSAGE
    if not source.include_tool_calls:
        if message.get("role") == "tool":
            return None
        if message.get("tool_calls"):
            if not message.get("content"):
                return None
            left_out.add("tool_calls")
    return {name: value for name, value in message.items() if name not in left_out}


def _pieces(data: bytes) -> Iterator[bytes]:
    # R7: no more than this in one send.
    for start in range(0, len(data), SEND_BYTES_MAX):
        yield data[start : start + SEND_BYTES_MAX]

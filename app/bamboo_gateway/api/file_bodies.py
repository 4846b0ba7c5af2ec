"""The bodies of uploads: a raw body, or the one file of a form, in pieces as they arrive."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final

import anyio
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from bamboo_gateway.api.body_memory import reservation_of
from bamboo_gateway.api.caller import still_allowed, unauthorized
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.domain.errors import Malformed, TooLarge
from bamboo_gateway.sessions.files.uploads import NewFile, Received
from bamboo_gateway.settings import Settings

HELD_BYTES: Final = 512 * 1024
"""What an upload holds in memory at most: the server's buffer, a piece that is joined, and its
copy in the thread that writes it."""

_FORM_EXTRA_BYTES: Final = 64 * 1024
"""What a form may have besides the file: boundaries, headers, small fields."""

_HEADER_BYTES_MAX: Final = 8 * 1024
_PARTS_MAX: Final = 20
"""Parts of a form: one is the file, others are ignored."""


async def file_body(request: Request) -> AsyncGenerator[Received]:
    """Yield what the body says of the file, if it is a form, and the file's bytes.

    Raises:
        ClientDisconnect: The client has broken off.
        EdgeError: Its credential became invalid, or it took longer than `upload_timeout_seconds`.
        Malformed: The form cannot be read, or has no file.
        TooLarge: The body is larger than `max_file_bytes`.
    """
    settings: Settings = request.app.state.settings
    size_max = settings.max_file_bytes
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    is_form = kind == b"multipart/form-data"
    body_max = size_max + (_FORM_EXTRA_BYTES if is_form else 0)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > body_max:
        raise _too_large(size_max)
    await reservation_of(request.scope).hold(HELD_BYTES)

    def refusal() -> TooLarge:
        return _too_large(size_max)

    pieces = pieces_of(request, settings.upload_timeout_seconds, body_max, refusal)
    if not is_form:
        async for piece in pieces:
            yield piece
        return
    form = _Form(options.get(b"boundary", b""))
    async for piece in pieces:
        for item in form.take(piece):
            yield item
    form.end()


async def pieces_of(
    request: Request, seconds: float, bytes_max: int, refusal: Callable[[], TooLarge]
) -> AsyncIterator[bytes]:
    """Yield a body as it arrives.

    Raises:
        ClientDisconnect: The client has broken off.
        EdgeError: Its credential became invalid, or it took longer than `seconds`.
        TooLarge: `refusal`: it has more than `bytes_max`.
    """
    is_allowed = still_allowed(request)
    ends_at = anyio.current_time() + seconds
    size, more = 0, True
    while more:
        message = None
        with anyio.move_on_at(ends_at):
            message = await request.receive()
        if message is None:
            raise EdgeError("upload-timeout")
        if not is_allowed():
            raise unauthorized(wrong=True)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > bytes_max:
            raise refusal()
        if piece:
            yield piece


class _Form:
    """Parser of a form: its first file, piece by piece as the body arrives.

    The first part with a file name is the file. Others are read and dropped.
    """

    def __init__(self, boundary: bytes) -> None:
        if not boundary or len(boundary) > 70:  # RFC 2046, 5.1.1
            raise Malformed("The form has no `boundary` in its Content-Type.")
        self._items: list[Received] = []
        self._field = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header_bytes = 0
        self._parts = 0
        self._is_file = self._has_file = self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._data,
                "on_part_end": self._end_part,
                "on_header_field": self._add_field,
                "on_header_value": self._add_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_end": self._end,
            },
        )

    def take(self, piece: bytes) -> list[Received]:
        """Return what a piece of the body has of the file.

        Raises:
            Malformed: The body is no form.
        """
        try:
            self._parser.write(piece)
        except MultipartParseError as error:
            raise Malformed("The body is no valid multipart form.") from error
        items, self._items = self._items, []
        return items

    def end(self) -> None:
        """Check that the form was complete and had a file.

        Raises:
            Malformed: It was not, or had none.
        """
        if not self._is_whole:
            raise Malformed("The multipart form ends before its last boundary.")
        if not self._has_file:
            raise Malformed("The form has no file: a part with a `filename` is one.")

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > _PARTS_MAX:
            raise Malformed(f"The form has more than {_PARTS_MAX} parts.")
        self._headers, self._header_bytes = {}, 0

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _HEADER_BYTES_MAX:
            raise Malformed(f"A part's headers have more than {_HEADER_BYTES_MAX} bytes.")

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"filename")
        self._is_file = name is not None and not self._has_file
        if self._is_file:
            self._has_file = True
            kind = self._headers.get(b"content-type", b"").decode("latin-1")
            self._items.append(NewFile((name or b"").decode("utf-8", "replace"), kind))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._items.append(data[start:end])

    def _end_part(self) -> None:
        self._is_file = False

    def _end(self) -> None:
        self._is_whole = True


def _too_large(size_max: int) -> TooLarge:
    return TooLarge(
        f"The file is larger than {size_max} bytes (max_file_bytes).", code="file-too-large"
    )

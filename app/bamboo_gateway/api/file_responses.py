"""Responses with the content of a file: whole, a range of it, or that it has not changed.

What users upload is foreign. So no browser renders it as a page of this origin: only pictures
without scripts are `inline`, everything else is an attachment; types are never guessed (`nosniff`),
and a document that is opened all the same has no scripts and no origin (`sandbox`).
"""

import re
from collections.abc import AsyncGenerator
from email.utils import formatdate
from typing import Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.responses import DocumentResponse, etag_matches
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.files import FileRecord
from bamboo_gateway.sessions.files.downloads import OpenFile

_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})-([0-9]{0,18})[ \t]*")
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._ -]+")

_SAFE: Final = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    # The content of an id never changes; who may see it does, so it is asked for each time.
    "Cache-Control": "private, no-cache",
    "Vary": "Authorization, Cookie",
    "Accept-Ranges": "bytes",
}


class _Span(NamedTuple):
    start: int
    end: int


def file_response(request: Request, file: OpenFile, *, as_file: bool) -> Response:
    """Return the response to a GET or HEAD of a file.

    Raises:
        EdgeError: The range begins behind the end: 416.
    """
    record = file.record
    headers = _headers(record, request.scope[CALLER], as_file=as_file)
    etag = headers["ETag"]
    if (wanted := request.headers.get("if-none-match")) is not None:
        if etag_matches(wanted, etag):
            return Response(status_code=304, headers=headers)
    elif request.headers.get("if-modified-since") == headers["Last-Modified"]:
        return Response(status_code=304, headers=headers)
    span = _span(request, record.size, etag, headers["Last-Modified"])
    status = 200
    if span is None:
        span = _Span(0, record.size)
    else:
        status = 206
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{record.size}"
    headers["Content-Length"] = str(span.end - span.start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    response = DocumentResponse(_pieces(file, span), record.media_type, headers)
    response.status_code = status
    return response


async def _pieces(file: OpenFile, span: _Span) -> AsyncGenerator[bytes]:
    pieces = file.read(span.start, span.end)
    try:
        async for piece in pieces:
            yield piece
    finally:
        await pieces.aclose()


def _headers(record: FileRecord, caller: Caller, *, as_file: bool) -> dict[str, str]:
    inline = record.is_picture and not as_file
    # A ticket or link in the URL is given to a page of any site on purpose; what a cookie opens is
    # for pages of this site only.
    policy = "same-site" if caller.session_id is None else "cross-origin"
    return {
        **_SAFE,
        # As a header, since a media type given to a response gets a charset that nobody knows.
        "Content-Type": record.media_type,
        "Cross-Origin-Resource-Policy": policy,
        "Content-Disposition": disposition(record.name, inline=inline),
        "ETag": f'"{record.sha256}"',
        "Last-Modified": formatdate(record.created_at // 1000, usegmt=True),
    }


def disposition(name: str, *, inline: bool) -> str:
    """Return a `Content-Disposition` for a name of any characters (RFC 6266, RFC 8187).

    `filename` has what every client understands, `filename*` the whole name. Quotes, backslashes
    and line ends never get into either.
    """
    plain = _NOT_PLAIN.sub("_", name).strip(" ._") or "file"
    kind = "inline" if inline else "attachment"
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _span(request: Request, size: int, etag: str, last_modified: str) -> _Span | None:
    """Return the one range that is asked for; None for the whole.

    Several ranges, other units and what cannot be read are ignored, as RFC 9110 (14.2) allows.
    """
    header = request.headers.get("range")
    if header is None or request.method != "GET":
        return None
    if (condition := request.headers.get("if-range")) is not None and condition.strip() not in {
        etag,
        last_modified,
    }:
        return None
    match = _RANGE.fullmatch(header)
    if match is None or (not match[1] and not match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        span = _Span(size - length, size)
    else:
        start = int(match[1])
        if match[2] and int(match[2]) < start:
            return None
        span = _Span(start, min(int(match[2]) + 1, size) if match[2] else size)
    if span.start >= span.end:
        raise EdgeError("range-not-satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return span

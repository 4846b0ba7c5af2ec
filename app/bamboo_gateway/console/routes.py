"""The route of the console's files.

The files hold no secret and no data, so they need no credential: the page asks for one. What it
shows comes from the API, with the caller's own rights.

All paths in the files are relative, so the console works below any prefix, also one that a proxy
strips and that nobody has named.
"""

import gzip
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import Response

from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.responses import etag_matches
from bamboo_gateway.api.security.rights import OpenRoute

router = APIRouter(prefix="/console", tags=["console"], route_class=OpenRoute)

_DIRECTORY: Final = Path(__file__).parent / "files"
_PAGE: Final = "index.html"
_SCRIPT: Final = "text/javascript; charset=utf-8"
FILES: Final = {
    _PAGE: "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "actions.js": _SCRIPT,
    "answers.js": _SCRIPT,
    "api.js": _SCRIPT,
    "charts.js": _SCRIPT,
    "composer.js": _SCRIPT,
    "conversation.js": _SCRIPT,
    "dom.js": _SCRIPT,
    "live.js": _SCRIPT,
    "main.js": _SCRIPT,
    "markdown.js": _SCRIPT,
    "messages.js": _SCRIPT,
    "operating.js": _SCRIPT,
    "runs.js": _SCRIPT,
    "session.js": _SCRIPT,
    "sessions.js": _SCRIPT,
    "tree.js": _SCRIPT,
}
"""The content type of each file. A name of a request never becomes part of a path (R13)."""

OPEN_PATHS: Final = frozenset({"/console", "/console/", *(f"/console/{name}" for name in FILES)})
"""The paths that need no credential."""

_HEADERS: Final = {
    # Asked for each time: a module is loaded by its name, which stays when the content changes.
    "Cache-Control": "no-cache",
    # Trusted types: the browser refuses every string that would become markup, so a title, a
    # message or a tool's name cannot become a script, whatever the console's code does with it.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}


class _Content(NamedTuple):
    """A file in the form in which it is sent."""

    body: bytes
    etag: str


@router.get("", include_in_schema=False)
async def get_console() -> Response:
    """Send the browser to the page: its relative links need the slash."""
    # Relative, since a proxy may strip a prefix that the gateway does not know.
    return Response(status_code=308, headers={"Location": "console/"})


@router.get("/", include_in_schema=False)
async def get_page(request: Request) -> Response:
    """Return the page."""
    return await get_file(request, _PAGE)


@router.get("/{name}", include_in_schema=False)
async def get_file(request: Request, name: str) -> Response:
    """Return one of the files that the page is made of.

    Raises:
        EdgeError: There is no such file.
    """
    if name not in FILES:
        raise EdgeError("not-found")
    zipped = _takes_gzip(request)
    content = await to_thread.run_sync(_read, name, zipped)
    headers = {**_HEADERS, "ETag": content.etag}
    wanted = request.headers.get("if-none-match")
    if wanted is not None and etag_matches(wanted, content.etag):
        return Response(status_code=304, headers=headers)
    if zipped:
        headers["Content-Encoding"] = "gzip"
    # As a header, since a media type given to a response may get another charset.
    return Response(content.body, headers={**headers, "Content-Type": FILES[name]})


@lru_cache(maxsize=2 * len(FILES))
def _read(name: str, zipped: bool) -> _Content:
    """Read a file once; the gateway's files do not change while it runs."""
    content = (_DIRECTORY / name).read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:32]
    if not zipped:
        return _Content(content, f'"{digest}"')
    return _Content(gzip.compress(content, mtime=0), f'"{digest}-gzip"')


def _takes_gzip(request: Request) -> bool:
    """Return whether the client names gzip without refusing it (RFC 9110, 12.5.3)."""
    for part in request.headers.get("accept-encoding", "").split(","):
        name, _, quality = part.partition(";")
        if name.strip().lower() == "gzip":
            return quality.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False

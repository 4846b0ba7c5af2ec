"""The front page (what the gateway is and where to go), the OpenAPI document, and `/docs`.

`/docs` is Swagger UI. Its files come with the package `fastapi-swagger`: it needs no internet.
"""

from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Final

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from bamboo_gateway import RELEASE, __version__
from bamboo_gateway.api.accept import prefers
from bamboo_gateway.api.openapi.responses import EDGE, OPEN_EDGE, TEXT, answer, problems
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.problems import EdgeError
from bamboo_gateway.api.responses import bytes_response, json_response
from bamboo_gateway.api.schemas.about import About, OpenapiDocument
from bamboo_gateway.api.security.rights import OpenRoute, ReadRoute
from bamboo_gateway.credentials.gate import Gate

open_router = APIRouter(tags=["about"], route_class=OpenRoute)
router = APIRouter(tags=["about"], route_class=ReadRoute)

_HTML: Final = "text/html"
_NAME: Final = "Bamboo Gateway"
_DESCRIPTION: Final = "Durable conversations between AI agents and their front ends."
_LINKS: Final = {
    "api": "/api/v1",
    "console": "/console/",
    "docs": "/docs",
    "openapi": "/api/v1/openapi.json",
    "live": "/health/live",
    "ready": "/health/ready",
}
_EXAMPLE: Final = {
    "name": _NAME,
    "description": _DESCRIPTION,
    "version": RELEASE,
    "links": _LINKS,
}
_ABOUT = answer(200, About, "What this is; HTML by `Accept`.", _EXAMPLE)
_ABOUT[200]["content"][_HTML] = {**TEXT, "example": f"<!doctype html><title>{_NAME}</title>"}


@open_router.get("/api/v1", include_in_schema=False)
@open_router.get(
    "/",
    summary="Get what this is and where to go",
    responses={**_ABOUT, **problems(*OPEN_EDGE)},
)
async def get_about(request: Request) -> Response:
    """Return the gateway's name and where to go, as JSON, or as HTML to browsers.

    This answer needs no credential. `version` is null where the gateway asks for credentials: a
    stranger does not learn which version to attack.
    """
    gate: Gate = request.app.state.gate
    prefix = prefix_of(request.scope)
    links = dict(_LINKS)
    if not request.app.state.settings.console:
        del links["console"]
    about = {
        **_EXAMPLE,
        "version": __version__ if gate.is_open else None,
        "links": {name: prefix + path for name, path in links.items()},
    }
    headers = {"Vary": "Accept"}
    if prefers(request, _HTML):
        # Relative links, so that the page works behind a prefix that nobody has named.
        relative = "" if request.scope["path"] == "/" else "../"
        root = f"{prefix}/" if prefix else relative
        return _page(_about_html(about["version"], links, root, prefix), headers)
    return json_response(about, headers=headers)


def _about_html(version: object, links: dict[str, str], root: str, prefix: str) -> str:
    title = escape(f"{_NAME} {version or ''}".strip())
    items = "".join(
        f'<li><a href="{root}{path.removeprefix("/")}">{prefix}{path}</a> ({name})</li>'
        for name, path in links.items()
        if name != "api"
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{escape(_DESCRIPTION)}</p>"
        f"<p>The API is below <code>{prefix}{_LINKS['api']}</code>.</p><ul>{items}</ul></html>\n"
    )


@router.get(
    "/api/v1/openapi.json",
    summary="Get the OpenAPI document",
    responses={
        **answer(
            200,
            OpenapiDocument,
            "This document.",
            {"openapi": "3.1.0", "info": {"title": _NAME, "version": RELEASE}, "paths": {}},
        ),
        **problems(*EDGE),
    },
)
async def get_openapi(request: Request) -> Response:
    """Return the document that describes this API (OpenAPI 3.1)."""
    # In a thread: it is put together once, and that takes longer than others should wait (R12).
    describe = request.app.state.openapi_json
    return bytes_response(await to_thread.run_sync(describe, prefix_of(request.scope)))


_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""The icons of Swagger UI are `data:` images. Scripts and styles are files of this gateway alone,
and the page sends requests to nobody else."""

_GUARD: Final = {"X-Content-Type-Options": "nosniff"}
_OWN: Final = Path(__file__).parents[1] / "pages"
_SWAGGER: Final = Path(str(files("fastapi_swagger"))) / "resources"
_FILES: Final = {
    "start.js": (_OWN / "start.js", "text/javascript"),
    "swagger-ui.js": (_SWAGGER / "swagger-ui-bundle.js", "text/javascript"),
    "swagger-ui.css": (_SWAGGER / "swagger-ui.css", "text/css"),
    "favicon.png": (_SWAGGER / "favicon-32x32.png", "image/png"),
}


@router.get("/docs", include_in_schema=False)
async def get_docs() -> Response:
    """Return the API as a page. It needs the right to read, as sessions do."""
    return _page(await to_thread.run_sync((_OWN / "docs.html").read_text, "utf-8"), {})


@router.get("/docs/{name}", include_in_schema=False)
async def get_docs_file(name: str) -> Response:
    """Return one of the files that the page is made of.

    Raises:
        EdgeError: There is no such file. The name never becomes part of a path (R13).
    """
    if name not in _FILES:
        raise EdgeError("not-found")
    file, media_type = _FILES[name]
    # Kept for an hour: 2 MB that change only with the gateway itself.
    headers = {**_GUARD, "Cache-Control": "private, max-age=3600"}
    return FileResponse(file, headers=headers, media_type=media_type)


def _page(text: str, headers: dict[str, str]) -> Response:
    return Response(
        text,
        headers={
            **_GUARD,
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            **headers,
        },
        media_type=_HTML,
    )

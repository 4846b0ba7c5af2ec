"""Files: uploads, downloads with ranges, lists, deletions."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.checks import checked_id, checked_user_id
from bamboo_gateway.api.dependencies import PAGE, FileId, Limit, Manager, Who
from bamboo_gateway.api.file_bodies import file_body
from bamboo_gateway.api.file_responses import file_response
from bamboo_gateway.api.limits import FILE_NAME_CHARS_MAX, USER_ID_CHARS_MAX
from bamboo_gateway.api.openapi.examples.files import FILE
from bamboo_gateway.api.openapi.responses import EDGE, STORED, WRITE, answer, bytes_of, problems
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.schemas.files import File, FileList
from bamboo_gateway.api.security.rights import SessionRoute, takes_ticket
from bamboo_gateway.api.upload_limits import upload_place
from bamboo_gateway.api.urls import file_answer, file_url
from bamboo_gateway.sessions.files.uploads import NewFile, Received

router = APIRouter(prefix="/api/v1", tags=["files"], route_class=SessionRoute)

_FILE_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": bytes_of("hello"),
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                },
                "example": {"file": "hello"},
            },
        },
    }
}
_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The content. Pictures (PNG, JPEG, GIF, WebP, AVIF) may be shown in a page, "
        "everything else is saved as a file.",
        "content": {"application/octet-stream": bytes_of("hello")},
        "headers": {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in (
                ("Accept-Ranges", "`bytes`: one range may be asked for."),
                ("Content-Disposition", "`inline` for pictures, else `attachment`; a safe name."),
                ("ETag", "The digest of the content; it never changes."),
            )
        },
    },
    206: {
        "description": "The range that `Range` asked for.",
        "content": {"application/octet-stream": bytes_of("ell")},
        "headers": {"Content-Range": {"description": "Which bytes.", "schema": {"type": "string"}}},
    },
    304: {"description": "`If-None-Match` names the content: nothing has changed."},
}


@router.post(
    "/files",
    status_code=201,
    summary="Upload a file",
    openapi_extra=_FILE_BODY,
    responses={
        **answer(201, File, "The file.", FILE, "Location", "Idempotency-Replayed"),
        **problems(
            *EDGE, *WRITE, *STORED, "limit-reached", "malformed", "file-too-large",
            "not-an-image", "too-many-uploads", "too-many-uploads-in-all", "upload-timeout",
            "idempotency-key-reused", "invalid-id",
        ),
    },
)  # fmt: skip
async def upload_file(
    request: Request,
    manager: Manager,
    who: Who,
    key: Key,
    name: Annotated[
        str | None,
        Query(
            max_length=FILE_NAME_CHARS_MAX,
            description="What the file is called. A path is cut to its last part.",
        ),
    ] = None,
    user_id: Annotated[
        str | None,
        Query(
            max_length=USER_ID_CHARS_MAX,
            description="The user that the file belongs to; only for operators.",
        ),
    ] = None,
) -> Response:
    """Store a file, which messages then name by its `file_id`.

    The body is the content, with its `Content-Type`; or a form (`multipart/form-data`) with one
    file in it. It is stored as it arrives and is never opened. When the request breaks off, nothing
    of it is kept. The same content is stored once for each user, and counts once in the quotas. A
    file that no session names goes after `file_retention_seconds`.
    """
    if user_id is not None:
        checked_user_id(user_id, ("query", "user_id"))
    new = NewFile(name, request.headers.get("content-type"), user_id, key)
    with upload_place(request):
        body: AsyncIterator[Received] = file_body(request)
        outcome = await manager.upload_file(who, new, body)
    prefix = prefix_of(request.scope)
    headers = {
        "Location": file_url(outcome.answer["file_id"], prefix),
        **outcome_headers(outcome),
    }
    return json_response(file_answer(outcome.answer, prefix), 201, headers)


@router.get(
    "/files",
    summary="List files",
    responses={
        **answer(
            200,
            FileList,
            "A page of files, the oldest first.",
            {"files": [FILE], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE, "invalid-id"),
    },
)
async def list_files(
    request: Request,
    manager: Manager,
    who: Who,
    limit: Limit = PAGE,
    cursor: Annotated[
        str | None, Query(max_length=128, description="The `next_cursor` of the page before.")
    ] = None,
) -> Response:
    """Return the caller's own files; an operator sees those of all users."""
    after = "" if cursor is None else checked_id(cursor, "cursor of files", ("query", "cursor"))
    files, has_more = await manager.list_files(who, after, limit)
    prefix = prefix_of(request.scope)
    page = {
        "files": [file_answer(one, prefix) for one in files],
        "next_cursor": files[-1]["file_id"] if has_more else None,
        "has_more": has_more,
    }
    return json_response(page)


@router.get(
    "/files/{file_id}",
    summary="Download a file",
    response_class=Response,
    responses={
        **_CONTENT,
        **problems(*EDGE, "file-not-found", "file-damaged", "range-not-satisfiable", "invalid-id"),
    },
)
@takes_ticket
async def download_file(
    request: Request,
    manager: Manager,
    who: Who,
    file_id: FileId,
    download: Annotated[bool, Query(description="Save it as a file, also a picture.")] = False,
) -> Response:
    """Return the content of a file, or one range of it.

    For the user that it belongs to, and for everybody who may read a session that names it, also
    with a ticket or a share link of that session. No browser ever shows it as a page: pictures may
    be shown inside one, everything else is saved.
    """
    return file_response(request, await manager.open_file(who, file_id), as_file=download)


@router.delete(
    "/files/{file_id}",
    status_code=204,
    summary="Delete a file",
    response_class=Response,
    responses={
        204: {"description": "It is deleted."},
        **problems(*EDGE, "file-not-found", "file-in-use", "storage-failed", "invalid-id"),
    },
)
async def delete_file(request: Request, manager: Manager, who: Who, file_id: FileId) -> Response:
    """Delete a file that no session names; 409 while one does. It goes with the last of them."""
    name_targets(request, [file_id])
    await manager.delete_file(who, file_id)
    return Response(status_code=204)

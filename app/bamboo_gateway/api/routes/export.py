"""Export and import: sessions as documents, and documents as sessions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_more_targets, name_targets
from bamboo_gateway.api.bodies import media_type, read_body
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation, lifecycle
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HELD,
    KEYED,
    NEW,
    SESSION,
    TEXT,
    WRITE,
    answer,
    bytes_of,
    lines_of,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency, idempotency_of_bytes
from bamboo_gateway.api.responses import DocumentResponse, json_response, outcome_headers
from bamboo_gateway.api.schemas.export import (
    BulkExportInput,
    ExportDocument,
    Exported,
    ExportedSession,
    ExportInput,
    Format,
    ImportedSession,
)
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.spooled_bodies import spooled_body
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.answers import ImportedConversation
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.sessions.lifecycle.export import ZIP_DISPOSITION, ExportOptions
from bamboo_gateway.sessions.manager import SessionManager

router = APIRouter(prefix="/api/v1", tags=["export"], route_class=SessionRoute)

_EXPORTED: Final[dict[str, Any]] = {
    "bamboo_export": 1,
    "session": {name: conversation.SESSION[name] for name in ExportedSession.model_fields},
    "summary": None,
    "lineage": {"ancestors": [], "merged_from": []},
    "messages": [conversation.USER_MESSAGE],
    "message_count": 1,
}
_DOCUMENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ExportDocument,
        "description": "The document, streamed; YAML has the same members as JSON.",
        "content": {
            "text/markdown": {**TEXT, "example": "# My chat\n"},
            "application/json": {"examples": {"json": {"value": _EXPORTED}}},
            "application/yaml": {
                "schema": {"$ref": f"#/components/schemas/{ExportDocument.__name__}"},
                "examples": {"yaml": {"value": _EXPORTED}},
            },
            "application/zip": bytes_of("PK\u0003\u0004"),
        },
        "headers": {
            "Content-Disposition": {"description": "A safe file name.", **TEXT},
        },
    }
}
_ZIP: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The documents, and `errors.txt` where some failed; streamed.",
        "content": {
            "application/zip": bytes_of("PK\u0003\u0004"),
        },
    }
}
_IMPORTED: Final = {"conversation": 1, "of": 2, "notes": [], "session": conversation.SESSION}
_IMPORT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {}, "example": _EXPORTED},
            "application/yaml": {**TEXT, "example": "bamboo_export: 1\n"},
            "application/x-ndjson": lines_of({}, '{"type":"session_meta","payload":{}}\n'),
            "application/octet-stream": bytes_of('{"bamboo_export":1}'),
            "application/zip": bytes_of("PK\u0003\u0004"),
        },
    }
}
_ALL: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "With `conversation=all`: a line for each conversation of the document.",
        "content": {
            "application/x-ndjson": lines_of(
                {"$ref": "#/components/schemas/ImportedConversation"},
                encode(_IMPORTED).decode() + "\n",
            )
        },
    }
}


@router.get(
    "/sessions/{session_id}/export",
    summary="Export a session",
    response_class=Response,
    responses={**_DOCUMENT, **problems(*EDGE, *SESSION)},
)
async def export_session(
    manager: Manager,
    who: Who,
    session_id: SessionId,
    format: Format = "markdown",  # noqa: A002 - the contract's name
    include_metadata: bool = True,
    include_tool_calls: bool = True,
    include_files: Annotated[
        bool,
        Query(description="A zip with the document and the files that messages name, by digest."),
    ] = False,
) -> Response:
    """Return the session as a document: Markdown for people, JSON or YAML without loss.

    A part that names a file has its `sha256`. With `include_files` the document is `session.json`
    (or `.yaml`, `.md`) of a zip, and each content is in it once, as `files/<sha256>`.
    """
    options = ExportOptions(format, include_metadata, include_tool_calls, include_files)
    document = await manager.export(who, session_id, options)
    headers = {"Content-Disposition": document.disposition}
    return DocumentResponse(document.chunks, document.media_type, headers)


@router.post(
    "/sessions/{session_id}/export",
    summary="Export a session to a file",
    responses={
        **answer(
            200,
            Exported,
            "The file, written.",
            {"path": "reports/a.md", "bytes": 18_204},
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE, *BODY, *SESSION, *KEYED, "invalid-path", "no-export-dir", "storage-full",
            "storage-failed",
        ),
    },
)  # fmt: skip
async def export_session_to_file(
    body: Annotated[ExportInput, Body(openapi_examples=lifecycle.EXPORT_FILES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Write the document under `export_dir`, whole or not at all. An older file is replaced.

    The paths of each user are relative to a folder of the user's own: `users/<user>`.
    """
    outcome = await manager.export_to_file(
        who, session_id, body.options(), body.path, idempotency(key, "POST /export", sent)
    )
    return json_response(outcome.answer, headers=outcome_headers(outcome))


@router.post(
    "/export",
    summary="Export many sessions",
    response_class=Response,
    responses={**_ZIP, **problems(*EDGE, *BODY)},
)
async def export_sessions(
    body: Annotated[BulkExportInput, Body(openapi_examples=lifecycle.EXPORT_ZIPS)],
    manager: Manager,
    who: Who,
) -> Response:
    """Return a zip of documents. `errors.txt` names the sessions that could not be exported."""
    chunks = manager.export_zip(who, body.session_ids, body.options())
    return DocumentResponse(chunks, "application/zip", {"Content-Disposition": ZIP_DISPOSITION})


@router.post(
    "/import",
    status_code=201,
    summary="Import a session",
    openapi_extra=_IMPORT,
    responses={
        **_ALL,
        **answer(
            201,
            ImportedSession,
            "The session.",
            conversation.SESSION,
            "Location",
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE, "malformed", *HELD, *WRITE, *KEYED, "invalid-id", "session-exists",
            "several-conversations", "event-too-large", *NEW, "too-many-files", "too-many-uploads",
            "too-many-uploads-in-all", "upload-timeout",
        ),
    },
)  # fmt: skip
async def import_session(
    request: Request,
    manager: Manager,
    who: Who,
    key: Key,
    id: Annotated[  # noqa: A002 - the contract's name
        Literal["new", "keep"],
        Query(description="`keep`: the id in the document; 409 when a session has it."),
    ] = "new",
    format: Annotated[  # noqa: A002 - the contract's name
        str | None,
        Query(
            max_length=64, description="The document's format; absent: recognised by its content."
        ),
    ] = None,
    conversation: Annotated[
        str | None,
        Query(
            pattern="^(all|[1-9][0-9]{0,5})$",
            description="Which conversation of a document with several, from 1; or `all`.",
        ),
    ] = None,
) -> Response:
    """Create a session from a document, all of it or nothing.

    The document is an export of Bamboo (JSON, YAML), a session of Claude Code, a rollout of Codex,
    ChatGPT's `conversations.json`, or a session of goose. `notes` lists what the gateway did not
    understand.

    An export with files is sent back as `application/zip`: its files become the caller's, and the
    session names them. Without the zip, messages keep the names of files that the caller has not.

    With `conversation=all` each conversation of the document becomes a session by itself. The
    answer is NDJSON then: a line for each conversation, as soon as it is imported.
    """
    if media_type(request) == "application/zip":
        return await _import_zip(request, manager, who, key, keep_id=id == "keep")
    data = await read_body(request)
    route = f"POST /import?id={id}&format={format}&conversation={conversation}"
    idem = idempotency_of_bytes(key, route, data)
    if conversation == "all":
        lines = await manager.import_all(
            who, data, format_name=format, keep_id=id == "keep", idem=idem
        )
        # Wait for the first before the answer begins: the audit log has it by then.
        first = await anext(lines)
        name_targets(request, _made(first))
        return DocumentResponse(_lines(request, first, lines), "application/x-ndjson", {})
    outcome = await manager.import_document(
        who,
        data,
        format_name=format,
        conversation=int(conversation) if conversation is not None else None,
        keep_id=id == "keep",
        idem=idem,
    )
    name_targets(request, [outcome.answer["id"]])
    prefix = prefix_of(request.scope)
    headers = {
        "Location": session_url(outcome.answer["id"], prefix),
        **outcome_headers(outcome),
    }
    return json_response(session_answer(outcome.answer, prefix), 201, headers)


async def _import_zip(
    request: Request, manager: SessionManager, who: Caller, key: str | None, *, keep_id: bool
) -> Response:
    async with spooled_body(request) as (file, digest):
        idem = None
        if key is not None:
            idem = Idempotency(key, f"POST /import.zip?keep={keep_id}", digest)
        outcome = await manager.import_zip(who, file, keep_id=keep_id, idem=idem)
    name_targets(request, [outcome.answer["id"]])
    prefix = prefix_of(request.scope)
    headers = {"Location": session_url(outcome.answer["id"], prefix), **outcome_headers(outcome)}
    return json_response(session_answer(outcome.answer, prefix), 201, headers)


async def _lines(
    request: Request, first: ImportedConversation, rest: AsyncGenerator[ImportedConversation]
) -> AsyncGenerator[bytes]:
    prefix = prefix_of(request.scope)
    async with aclosing(rest):
        yield _line(first, prefix)
        async for line in rest:
            if made := _made(line):
                name_more_targets(request, made)
            yield _line(line, prefix)


def _line(result: ImportedConversation, prefix: str) -> bytes:
    if "session" not in result:
        return encode(result) + b"\n"
    return encode({**result, "session": session_answer(result["session"], prefix)}) + b"\n"


def _made(line: ImportedConversation) -> list[str]:
    return [line["session"]["id"]] if "session" in line else []

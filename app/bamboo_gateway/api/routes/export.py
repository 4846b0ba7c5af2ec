"""Export and import: sessions as documents."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_more_targets, name_targets
from bamboo_gateway.api.bodies import read_body
from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation as examples
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    HELD,
    KEYED,
    NEW,
    SESSION,
    WRITE,
    answer,
    problems,
)
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency, idempotency_of_bytes
from bamboo_gateway.api.responses import DocumentResponse, json_response, outcome_headers
from bamboo_gateway.api.schemas.export import (
    ExportDocument,
    Exported,
    ExportedSession,
    ImportedSessionShape,
)
from bamboo_gateway.api.schemas.extensions import BulkExportInput, ExportInput, Format
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.lifecycle.export import ZIP_DISPOSITION, ExportOptions

router = APIRouter(prefix="/api/v1", tags=["export"], route_class=SessionRoute)

_TEXT: Final = {"schema": {"type": "string"}}
_EXPORTED: Final[dict[str, Any]] = {
    "bamboo_export": 1,
    "session": {name: examples.SESSION[name] for name in ExportedSession.model_fields},
    "summary": None,
    "lineage": {"ancestors": [], "merged_from": []},
    "messages": [examples.USER_MESSAGE],
    "message_count": 1,
}
_DOCUMENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": ExportDocument,
        "description": "The document, streamed; YAML has the same members as JSON.",
        "content": {
            "text/markdown": {**_TEXT, "example": "# My chat\n"},
            "application/json": {"examples": {"json": {"value": _EXPORTED}}},
            "application/yaml": {
                "schema": {"$ref": f"#/components/schemas/{ExportDocument.__name__}"},
                "examples": {"yaml": {"value": _EXPORTED}},
            },
        },
        "headers": {
            "Content-Disposition": {"description": "A safe file name.", **_TEXT},
        },
    }
}
_ZIP: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The documents, and `errors.txt` where some failed; streamed.",
        "content": {
            "application/zip": {
                "schema": {"type": "string", "format": "binary"},
                "example": "PK\u0003\u0004",
            }
        },
    }
}
_IMPORT: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {},
                "example": _EXPORTED,
            },
            "application/yaml": {**_TEXT, "example": "bamboo_export: 1\n"},
            "application/x-ndjson": {**_TEXT, "example": '{"type":"session_meta","payload":{}}\n'},
            "application/octet-stream": {**_TEXT, "example": '{"bamboo_export":1}'},
        },
    }
}
_ALL: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "With `conversation=all`: what became of each conversation, one a line: "
        "`{conversation, of, notes, session}`, or `{conversation, of, notes, code, detail}`.",
        "content": {
            "application/x-ndjson": {
                **_TEXT,
                "examples": {
                    "ndjson": {
                        "value": '{"conversation":1,"of":2,"notes":[],"session":{"id":"s-1"}}\n'
                    }
                },
            }
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
) -> Response:
    """Gives the session as a document: Markdown for people, JSON or YAML without loss.

    With `include_metadata=false` the document has the session's id, title and times and what was
    said, and nothing else. It can still be imported.
    """
    options = ExportOptions(format, include_metadata, include_tool_calls)
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
            "The file is written.",
            {"path": "reports/a.md", "bytes": 18_204},
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE, *BODY, *SESSION, *KEYED, "invalid-path", "no-export-dir", "storage-full",
            "storage-failed",
        ),
    },
)  # fmt: skip
async def export_to_file(
    body: Annotated[ExportInput, Body(openapi_examples=examples.EXPORT_FILES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Writes the document under `export_dir`, whole or not at all; an older file is replaced.

    Users have a folder each, which their paths are relative to: `users/<user>`.
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
async def export_many(
    body: Annotated[BulkExportInput, Body(openapi_examples=examples.EXPORT_ZIPS)],
    manager: Manager,
    who: Who,
) -> Response:
    """Gives a zip of documents; sessions that cannot be exported are named in `errors.txt`."""
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
            ImportedSessionShape,
            "The session.",
            examples.SESSION,
            "Location",
            "Idempotency-Replayed",
        ),
        **problems(
            *EDGE, "malformed", *HELD, *WRITE, *KEYED, "invalid-id", "session-exists",
            "several-conversations", "event-too-large", *NEW,
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
        Query(description="`keep`: the id that the document names; 409 when it is taken."),
    ] = "new",
    format: Annotated[  # noqa: A002 - the contract's name
        str | None, Query(max_length=64, description="What it is; absent: its content tells.")
    ] = None,
    conversation: Annotated[
        str | None,
        Query(
            pattern="^(all|[1-9][0-9]{0,5})$",
            description="Which one of a document with several, from 1; `all`: each is a session.",
        ),
    ] = None,
) -> Response:
    """Makes a session of a document, all of it or nothing.

    With `conversation=all` each conversation becomes a session by itself, and the answer tells of
    them as they are made, one a line.

    Read are exports of Bamboo (JSON, YAML), sessions of Claude Code, rollouts of Codex, ChatGPT's
    `conversations.json`, and sessions of goose. `notes` says what was not understood.
    """
    data = await read_body(request)
    route = f"POST /import?id={id}&format={format}&conversation={conversation}"
    idem = idempotency_of_bytes(key, route, data)
    if conversation == "all":
        lines = await manager.import_all(
            who, data, format_name=format, keep_id=id == "keep", idem=idem
        )
        # The first before the answer begins: what it has done is in the audit log by then.
        first = await anext(lines)
        name_targets(request, _made(first))
        return DocumentResponse(_told(request, first, lines), "application/x-ndjson", {})
    outcome = await manager.import_document(
        who,
        data,
        format_name=format,
        conversation=int(conversation) if conversation is not None else None,
        keep_id=id == "keep",
        idem=idem,
    )
    name_targets(request, [outcome.answer["id"]])
    headers = {
        "Location": session_url(outcome.answer["id"]),
        **outcome_headers(outcome),
    }
    return json_response(session_answer(outcome.answer), 201, headers)


async def _told(
    request: Request, first: dict[str, Any], rest: AsyncGenerator[dict[str, Any]]
) -> AsyncGenerator[bytes]:
    async with aclosing(rest):
        yield _line(first)
        async for line in rest:
            if made := _made(line):
                name_more_targets(request, made)
            yield _line(line)


def _line(told: dict[str, Any]) -> bytes:
    if "session" in told:
        told = {**told, "session": session_answer(told["session"])}
    return encode(told) + b"\n"


def _made(line: dict[str, Any]) -> list[str]:
    return [line["session"]["id"]] if "session" in line else []

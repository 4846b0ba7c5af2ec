"""Extension data: enabled extensions, the todo list, custom values."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    OPEN,
    SESSION,
    WRITE,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.extensions import (
    ExtensionDataAnswer,
    ExtensionDataInput,
    ExtensionDataPatch,
    ExtensionName,
    ExtensionState,
    ExtensionStateInput,
    TodoInput,
    TodoState,
)
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.sessions.extensions import (
    drop_extension,
    merge_all,
    named_in,
    put_extension,
    put_todo,
    replace_all,
)

router = APIRouter(prefix="/api/v1", tags=["extensions"], route_class=SessionRoute)

_Name = Annotated[
    ExtensionName,
    Path(
        description="The extension's name: any text without control characters.",
        openapi_examples={"memory": {"value": "memory"}},
    ),
]
_CHANGE = (*EDGE, *BODY, *SESSION, *OPEN, *WRITE, "invalid-extension-data", "metadata-too-large",
           "event-too-large")  # fmt: skip


@router.get(
    "/sessions/{session_id}/extensions",
    summary="Read the extension data",
    responses={
        **answer(200, ExtensionDataAnswer, "The extension data.", lifecycle.EXTENSIONS),
        **problems(*EDGE, *SESSION),
    },
)
async def get_extensions(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return the session's `extension_data`, in its typed form."""
    return json_response(await manager.extensions(who, session_id))


@router.put(
    "/sessions/{session_id}/extensions",
    summary="Replace the extension data",
    responses={
        **answer(200, ExtensionDataAnswer, "The extension data.", lifecycle.EXTENSIONS),
        **problems(*_CHANGE),
    },
)
async def replace_extensions(
    body: Annotated[ExtensionDataInput, Body(openapi_examples=lifecycle.EXTENSION_PUTS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Replace all of the extension data; members that are absent become empty."""
    change = replace_all(body.model_dump())
    return json_response(await manager.change_extensions(who, session_id, change))


@router.patch(
    "/sessions/{session_id}/extensions",
    summary="Change the extension data",
    responses={
        **answer(200, ExtensionDataAnswer, "The extension data.", lifecycle.EXTENSIONS),
        **problems(*_CHANGE),
    },
)
async def update_extensions(
    body: Annotated[ExtensionDataPatch, Body(openapi_examples=lifecycle.EXTENSION_PATCHES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Apply a JSON merge patch (RFC 7396); lists are replaced whole."""
    change = merge_all(body.model_dump(exclude_unset=True))
    return json_response(await manager.change_extensions(who, session_id, change))


@router.get(
    "/sessions/{session_id}/extensions/{name}",
    summary="Read one extension's state",
    responses={
        **answer(200, ExtensionState, "The extension.", lifecycle.EXTENSION),
        **problems(*EDGE, *SESSION, "extension-not-found"),
    },
)
async def get_extension(manager: Manager, who: Who, session_id: SessionId, name: _Name) -> Response:
    """Return one extension's configuration, and whether it is enabled."""
    return json_response(await manager.extension(who, session_id, name))


@router.put(
    "/sessions/{session_id}/extensions/{name}",
    summary="Set one extension's state",
    responses={
        **answer(200, ExtensionState, "The extension.", lifecycle.EXTENSION),
        **problems(*_CHANGE),
    },
)
async def set_extension(
    body: Annotated[ExtensionStateInput, Body(openapi_examples=lifecycle.EXTENSION_STATES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    name: _Name,
) -> Response:
    """Set one extension's state, whether or not it was there."""
    change = put_extension(name, body.config, enabled=body.enabled)
    data = await manager.change_extensions(who, session_id, change)
    return json_response(named_in(data, name))


@router.delete(
    "/sessions/{session_id}/extensions/{name}",
    status_code=204,
    summary="Remove an extension",
    responses={
        **nothing(204, "The extension is removed."),
        **problems(*EDGE, *SESSION, *OPEN, *WRITE, "extension-not-found"),
    },
)
async def delete_extension(
    manager: Manager, who: Who, session_id: SessionId, name: _Name
) -> Response:
    """Remove one extension and its state."""
    await manager.change_extensions(who, session_id, drop_extension(name))
    return Response(status_code=204)


@router.get(
    "/sessions/{session_id}/todo",
    summary="Read the todo list",
    responses={
        **answer(200, TodoState, "The todo list.", lifecycle.TODOS["list"]["value"]),
        **problems(*EDGE, *SESSION, "todo-not-found"),
    },
)
async def get_todo(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return the todo list, as it was last set."""
    todo = (await manager.extensions(who, session_id))["todo_state"]
    if todo is None:
        raise NotFound("The session has no todo list; PUT one first.", code="todo-not-found")
    return json_response(todo)


@router.put(
    "/sessions/{session_id}/todo",
    summary="Set the todo list",
    responses={
        **answer(200, TodoState, "The todo list.", lifecycle.TODOS["list"]["value"]),
        **problems(*_CHANGE),
    },
)
async def set_todo(
    body: Annotated[TodoInput, Body(openapi_examples=lifecycle.TODOS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Set the todo list, in place of the one before."""
    data = await manager.change_extensions(who, session_id, put_todo(body.content))
    return json_response(data["todo_state"])

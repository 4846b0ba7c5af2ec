"""Extension data: enabled extensions, the todo list, custom values."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation as examples
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
from bamboo_gateway.api.schemas.export import ExtensionDataShape, ExtensionState, TodoState
from bamboo_gateway.api.schemas.extensions import (
    ExtensionDataInput,
    ExtensionDataPatch,
    ExtensionName,
    ExtensionStateInput,
    TodoInput,
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
        **answer(200, ExtensionDataShape, "The extension data.", examples.EXTENSIONS),
        **problems(*EDGE, *SESSION),
    },
)
async def get_extensions(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Gives the session's extension data; it is the session's `extension_data`, typed."""
    return json_response(await manager.extensions(who, session_id))


@router.put(
    "/sessions/{session_id}/extensions",
    summary="Replace the extension data",
    responses={
        **answer(200, ExtensionDataShape, "The extension data.", examples.EXTENSIONS),
        **problems(*_CHANGE),
    },
)
async def put_extensions(
    body: Annotated[ExtensionDataInput, Body(openapi_examples=examples.EXTENSION_PUTS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Puts all of it in place of what is there; what is not given is emptied."""
    change = replace_all(body.model_dump())
    return json_response(await manager.change_extensions(who, session_id, change))


@router.patch(
    "/sessions/{session_id}/extensions",
    summary="Change the extension data",
    responses={
        **answer(200, ExtensionDataShape, "The extension data.", examples.EXTENSIONS),
        **problems(*_CHANGE),
    },
)
async def patch_extensions(
    body: Annotated[ExtensionDataPatch, Body(openapi_examples=examples.EXTENSION_PATCHES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Applies a JSON merge patch (RFC 7396); lists are replaced whole."""
    change = merge_all(body.model_dump(exclude_unset=True))
    return json_response(await manager.change_extensions(who, session_id, change))


@router.get(
    "/sessions/{session_id}/extensions/{name}",
    summary="Read one extension's state",
    responses={
        **answer(200, ExtensionState, "The extension.", examples.EXTENSION),
        **problems(*EDGE, *SESSION, "extension-not-found"),
    },
)
async def get_extension(manager: Manager, who: Who, session_id: SessionId, name: _Name) -> Response:
    """Gives one extension's configuration, and whether it is enabled."""
    return json_response(await manager.extension(who, session_id, name))


@router.put(
    "/sessions/{session_id}/extensions/{name}",
    summary="Set one extension's state",
    responses={
        **answer(200, ExtensionState, "The extension.", examples.EXTENSION),
        **problems(*_CHANGE),
    },
)
async def put_one_extension(
    body: Annotated[ExtensionStateInput, Body(openapi_examples=examples.EXTENSION_STATES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    name: _Name,
) -> Response:
    """Sets it, whether or not it was there."""
    change = put_extension(name, body.config, enabled=body.enabled)
    data = await manager.change_extensions(who, session_id, change)
    return json_response(named_in(data, name))


@router.delete(
    "/sessions/{session_id}/extensions/{name}",
    status_code=204,
    summary="Remove an extension",
    responses={
        **nothing(204, "It is gone."),
        **problems(*EDGE, *SESSION, *OPEN, *WRITE, "extension-not-found"),
    },
)
async def delete_extension(
    manager: Manager, who: Who, session_id: SessionId, name: _Name
) -> Response:
    """Takes one extension out."""
    await manager.change_extensions(who, session_id, drop_extension(name))
    return Response(status_code=204)


@router.get(
    "/sessions/{session_id}/todo",
    summary="Read the todo list",
    responses={
        **answer(200, TodoState, "The todo list.", examples.TODOS["list"]["value"]),
        **problems(*EDGE, *SESSION, "todo-not-found"),
    },
)
async def get_todo(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Gives the todo list, as it was last put."""
    todo = (await manager.extensions(who, session_id))["todo_state"]
    if todo is None:
        raise NotFound("The session has no todo list; PUT one first.", code="todo-not-found")
    return json_response(todo)


@router.put(
    "/sessions/{session_id}/todo",
    summary="Set the todo list",
    responses={
        **answer(200, TodoState, "The todo list.", examples.TODOS["list"]["value"]),
        **problems(*_CHANGE),
    },
)
async def put_todo_list(
    body: Annotated[TodoInput, Body(openapi_examples=examples.TODOS)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
) -> Response:
    """Sets the todo list, in place of the one before."""
    data = await manager.change_extensions(who, session_id, put_todo(body.content))
    return json_response(data["todo_state"])

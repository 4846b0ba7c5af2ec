"""The routes of conversations and their items."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.responses import (
    ASKED,
    BODY,
    EDGE,
    KEYED,
    NAMED,
    NEW,
    OPEN,
    SESSION,
    TOOLS,
    WRITE,
    answer,
)
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, NotFound
from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.domain.tool_order import OPEN_CALLS_MAX
from bamboo_gateway.domain.views import SessionView
from bamboo_gateway.sessions.commands import NewMessage, NewSession
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.wires.openai import answers
from bamboo_gateway.wires.openai.answers import refusals
from bamboo_gateway.wires.openai.creating import REQUEST
from bamboo_gateway.wires.openai.errors import unsupported, wrong
from bamboo_gateway.wires.openai.ids import conversation_id as id_of
from bamboo_gateway.wires.openai.ids import message_of, request_of
from bamboo_gateway.wires.openai.inputs import finished, read_input
from bamboo_gateway.wires.openai.items import Item, stored_items
from bamboo_gateway.wires.openai.parameters import read_metadata
from bamboo_gateway.wires.openai.route import (
    LIST_DEFAULT,
    PREFIX,
    ConversationId,
    ItemId,
    ListAfter,
    ListLimit,
    ListOrder,
    OpenAIRoute,
    behind,
    named_session,
    no_item,
    page_of,
)
from bamboo_gateway.wires.openai.schemas import (
    ConversationCreate,
    ConversationUpdate,
    ItemsCreate,
    OpenAIConversation,
    OpenAIDeleted,
    OpenAIItem,
    OpenAIItems,
)

router = APIRouter(prefix=PREFIX, tags=["wires"], route_class=OpenAIRoute)

_ONE: Final = answer(200, OpenAIConversation, "The conversation.", answers.CONVERSATION)
_ADDS: Final = (*BODY, *OPEN, *WRITE, *KEYED, *NAMED, *TOOLS, *ASKED, "event-too-large")
_ITEMS_EXAMPLE: Final = {
    "items": {"value": {"items": [{"type": "message", "role": "user", "content": "Hello!"}]}}
}


@router.post(
    "/conversations",
    summary="Create a conversation (OpenAI)",
    responses={
        **_ONE,
        **refusals(*EDGE, *_ADDS, *NEW, "metadata-too-large", "option-refused"),
    },
)
async def create_openai_conversation(
    body: Annotated[
        ConversationCreate,
        Body(openapi_examples={"metadata": {"value": {"metadata": {"topic": "greetings"}}}}),
    ],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Create a session, with messages that it begins with."""
    del body
    _check_members(sent, {"items", "metadata"})
    messages = _messages(sent.get("items") or [])
    metadata = read_metadata(sent.get("metadata") or {})
    idem = idempotency(key, "POST /openai/v1/conversations", sent)
    made = await manager.create_session(who, NewSession(metadata=metadata), idem)
    session_id = made.answer["id"]
    bind_contextvars(session_id=session_id)
    if messages:
        first = idempotency(key, "POST /openai/v1/conversations items", sent)
        try:
            await manager.add_messages(who, session_id, messages, first)
        except BambooError:
            if not made.replayed:
                await manager.delete_session(who, session_id)  # all or nothing
            raise
    return json_response(_shown(made.answer))


@router.get(
    "/conversations/{conversation_id}",
    summary="Retrieve a conversation (OpenAI)",
    responses={**_ONE, **refusals(*EDGE, *SESSION)},
)
async def get_openai_conversation(
    manager: Manager, who: Who, conversation_id: ConversationId
) -> Response:
    """Return a session as OpenAI's Conversation."""
    return json_response(await _conversation(manager, who, conversation_id))


@router.post(
    "/conversations/{conversation_id}",
    summary="Change a conversation (OpenAI)",
    responses={
        **_ONE,
        **refusals(*EDGE, *BODY, *SESSION, *OPEN, *WRITE, "metadata-too-large", "option-refused"),
    },
)
async def update_openai_conversation(
    body: Annotated[
        ConversationUpdate,
        Body(openapi_examples={"metadata": {"value": {"metadata": {"topic": "greetings"}}}}),
    ],
    manager: Manager,
    who: Who,
    conversation_id: ConversationId,
    sent: SentJson,
) -> Response:
    """Replace the metadata of a session."""
    del body
    _check_members(sent, {"metadata"})
    session_id = _named(conversation_id)
    metadata = read_metadata(sent.get("metadata") or {})
    present = (await manager.get_session(who, session_id)).session["metadata"]
    gone = {name: None for name in present if name != REQUEST}
    detail = await manager.update_session(who, session_id, {"metadata": {**gone, **metadata}})
    return json_response(_shown(detail.session))


@router.delete(
    "/conversations/{conversation_id}",
    summary="Delete a conversation (OpenAI)",
    responses={
        **answer(
            200,
            OpenAIDeleted,
            "It is deleted.",
            {"id": "conv_s-1", "object": "conversation.deleted", "deleted": True},
        ),
        **refusals(*EDGE, *SESSION, *WRITE),
    },
)
async def delete_openai_conversation(
    request: Request, manager: Manager, who: Who, conversation_id: ConversationId
) -> Response:
    """Delete the session with everything in it."""
    session_id = _named(conversation_id)
    name_targets(request, [session_id])
    await manager.delete_session(who, session_id)
    return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.get(
    "/conversations/{conversation_id}/items",
    summary="List the items of a conversation (OpenAI)",
    responses={
        **answer(200, OpenAIItems, "The items.", answers.ITEMS),
        **refusals(*EDGE, *SESSION, "message-not-found"),
    },
)
async def list_openai_items(
    manager: Manager,
    who: Who,
    conversation_id: ConversationId,
    limit: ListLimit = LIST_DEFAULT,
    order: ListOrder = "desc",
    after: ListAfter = None,
) -> Response:
    """Return the items of the current path, the latest first.

    One message may be several items: reasoning, text and calls.
    """
    session_id, descending = _named(conversation_id), order == "desc"
    items: list[Item] = []
    place: str | None = None
    if after is not None:
        place = await _message_of(manager, who, session_id, after)
        own = await _items_of(manager, who, session_id, place)
        items += behind(own[::-1] if descending else own, after)
    has_more = True
    # Some messages are no items of their own: results that are part of the call's item.
    while has_more and len(items) <= limit:
        page = await manager.messages(
            who,
            session_id,
            limit=limit,
            before=place if descending else None,
            after=None if descending else place,
            descending=descending,
        )
        messages = [decode(message) for message in page.messages]
        ascending = messages[::-1] if descending else messages
        shown = await _stored(manager, who, session_id, ascending)
        items += shown[::-1] if descending else shown
        place, has_more = page.next_cursor, page.has_more
    return json_response(page_of(items[:limit], len(items) > limit))


@router.post(
    "/conversations/{conversation_id}/items",
    summary="Add items to a conversation (OpenAI)",
    responses={
        **answer(200, OpenAIItems, "What was added.", answers.ITEMS),
        **refusals(*EDGE, *SESSION, *_ADDS, "option-refused"),
    },
)
async def create_openai_items(
    body: Annotated[ItemsCreate, Body(openapi_examples=_ITEMS_EXAMPLE)],
    manager: Manager,
    who: Who,
    conversation_id: ConversationId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Add messages to a session, all or none, without an answer."""
    del body
    _check_members(sent, {"items"})
    messages = _messages(sent.get("items"))
    if not messages:
        raise wrong("items", "is empty.")
    idem = idempotency(key, "POST /openai/v1/conversations/{id}/items", sent)
    added = await manager.add_messages(who, _named(conversation_id), messages, idem)
    return json_response(page_of(stored_items(added.answer["messages"]), False))


@router.get(
    "/conversations/{conversation_id}/items/{item_id}",
    summary="Retrieve an item of a conversation (OpenAI)",
    responses={
        **answer(200, OpenAIItem, "The item.", answers.ITEM),
        **refusals(*EDGE, *SESSION, "message-not-found"),
    },
)
async def get_openai_item(
    manager: Manager, who: Who, conversation_id: ConversationId, item_id: ItemId
) -> Response:
    """Return one item, of any branch."""
    session_id = _named(conversation_id)
    message_id = await _message_of(manager, who, session_id, item_id)
    own = await _items_of(manager, who, session_id, message_id)
    for item in own:
        if item["id"] == item_id:
            return json_response(item)
    raise no_item()


@router.delete(
    "/conversations/{conversation_id}/items/{item_id}",
    summary="Delete the last item of a conversation (OpenAI)",
    responses={
        **_ONE,
        **refusals(
            *EDGE,
            *SESSION,
            *OPEN,
            *WRITE,
            "message-not-found",
            "not-the-last-message",
            "run-active",
            "too-many-branches",
        ),
    },
)
async def delete_openai_item(
    manager: Manager, who: Who, conversation_id: ConversationId, item_id: ItemId
) -> Response:
    """Hide the last message of the conversation. Anything else stays: a log is never cut."""
    session_id = _named(conversation_id)
    message_id = await _message_of(manager, who, session_id, item_id)
    own = await _items_of(manager, who, session_id, message_id)
    if not any(item["id"] == item_id for item in own):
        raise no_item()
    if len(own) > 1:
        raise wrong("item_id", "is one of several items of a message.")
    await manager.hide_message(who, session_id, message_id)
    return json_response(await _conversation(manager, who, conversation_id))


def _named(conversation_id: str) -> str:
    session_id = named_session(conversation_id)
    bind_contextvars(session_id=session_id)
    return session_id


def _check_members(sent: Mapping[str, Any], known: set[str]) -> None:
    for name in sent:
        if name not in known:
            raise unsupported(name[:80], "is not known.")


def _messages(given: Any) -> list[NewMessage]:
    found = read_input(given, "items")
    if found.instructed_by is not None:
        # Which agent answers is not known yet, so none can allow it.
        raise unsupported(found.instructed_by, "has instructions; send them with each response.")
    if found.approvals:
        raise unsupported("items", "has an approval's answer; send it as the input of a response.")
    return finished(found, "items")


async def _message_of(manager: SessionManager, who: Caller, session_id: str, item_id: str) -> str:
    request_id = request_of(item_id)
    if request_id is not None and is_id(request_id):
        try:
            return await manager.message_of_input(who, session_id, request_id)
        except NotFound as error:
            if error.code != "request-not-found":
                raise
            raise no_item() from error
    message_id = message_of(item_id)
    if message_id is None:
        raise no_item()
    return message_id


async def _conversation(
    manager: SessionManager, who: Caller, conversation_id: str
) -> dict[str, Any]:
    return _shown((await manager.get_session(who, _named(conversation_id))).session)


def _shown(session: SessionView) -> dict[str, Any]:
    metadata = {name: value for name, value in session["metadata"].items() if name != REQUEST}
    return {
        "id": id_of(session["id"]),
        "object": "conversation",
        "created_at": parse_ms(session["created_at"]) // 1000,
        "metadata": metadata,
    }


async def _items_of(
    manager: SessionManager, who: Caller, session_id: str, message_id: str
) -> list[Item]:
    message = await manager.message(who, session_id, message_id)
    return await _stored(manager, who, session_id, [message])


async def _stored(
    manager: SessionManager, who: Caller, session_id: str, messages: list[dict[str, Any]]
) -> list[Item]:
    """Return the items of messages that follow one another."""
    later = await _results_behind(manager, who, session_id, messages)
    runs = {one["run_id"] for one in messages if one.get("tool_calls") and "run_id" in one}
    requests = await manager.inputs_of_runs(who, session_id, runs) if runs else []
    return stored_items(messages, later, requests)


async def _results_behind(
    manager: SessionManager, who: Caller, session_id: str, messages: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the messages behind a page that may have results of its last calls."""
    calls = {
        call["id"]: message
        for message in messages
        if message["role"] == "assistant"
        for call in message.get("tool_calls") or ()
    }
    for message in messages:
        calls.pop(message.get("tool_call_id"), None)
    if not calls:
        return []
    last = messages[-1]["id"]
    try:
        page = await manager.messages(who, session_id, limit=OPEN_CALLS_MAX, after=last)
    except NotFound:
        return []  # it is on another branch
    return [decode(message) for message in page.messages]

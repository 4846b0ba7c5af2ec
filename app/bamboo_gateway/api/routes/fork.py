"""Branches: fork, merge, and the tree of sessions."""

from typing import Annotated

from fastapi import APIRouter, Body, Request
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, SessionId, Who
from bamboo_gateway.api.openapi.examples import conversation, lifecycle
from bamboo_gateway.api.openapi.responses import (
    ASKED,
    BODY,
    EDGE,
    KEYED,
    NEW,
    OPEN,
    SESSION,
    WRITE,
    answer,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.schemas.fork import Forked, ForkInput, Merged, MergeInput, Tree
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import session_answer, session_url
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.sessions.answers import TreeNode

router = APIRouter(prefix="/api/v1", tags=["branches"], route_class=SessionRoute)


@router.post(
    "/sessions/{session_id}/fork",
    status_code=201,
    summary="Fork a session",
    responses={
        **answer(201, Forked, "The new session.", lifecycle.FORK, "Location",
                 "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION, *WRITE, *KEYED, "message-not-found", "session-exists",
                   *NEW),
    },
)  # fmt: skip
async def fork_session(
    request: Request,
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
    body: Annotated[ForkInput | None, Body(openapi_examples=lifecycle.FORKS)] = None,
) -> Response:
    """Create a new session with the messages up to and including one (default: all).

    A tool call and its results stay together: where the cut would separate them, the gateway moves
    the cut behind the results, and the answer says so.
    """
    outcome = await manager.fork(
        who,
        session_id,
        (body or ForkInput()).to_fork(),
        idempotency(key, f"POST /sessions/{session_id}/fork", sent),
    )
    prefix = prefix_of(request.scope)
    headers = {
        "Location": session_url(outcome.answer["id"], prefix),
        **outcome_headers(outcome),
    }
    return json_response(session_answer(outcome.answer, prefix), 201, headers)


@router.post(
    "/sessions/{session_id}/merge",
    summary="Merge another session into this one",
    responses={
        **answer(200, Merged, "The target.", conversation.SESSION, "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *SESSION, *OPEN, *WRITE, *KEYED, *ASKED, "self-merge",
                   "run-active", "open-tool-calls", "event-too-large", "metadata-too-large"),
    },
)  # fmt: skip
async def merge_session(
    request: Request,
    body: Annotated[MergeInput, Body(openapi_examples=lifecycle.MERGES)],
    manager: Manager,
    who: Who,
    session_id: SessionId,
    key: Key,
    sent: SentJson,
) -> Response:
    """Merge the messages of the source. Messages that both have are not doubled; the source stays.

    Both together may have 300,000 different messages, of any size. More are refused with 413.
    """
    outcome = await manager.merge(
        who, session_id, body.to_merge(), idempotency(key, "POST /merge", sent)
    )
    shown = session_answer(outcome.answer, prefix_of(request.scope))
    return json_response(shown, headers=outcome_headers(outcome))


@router.get(
    "/sessions/{session_id}/tree",
    summary="Get the branch tree",
    responses={
        **answer(200, Tree, "The whole tree, from its root.", lifecycle.TREE),
        **problems(*EDGE, *SESSION),
    },
)
async def get_session_tree(manager: Manager, who: Who, session_id: SessionId) -> Response:
    """Return the whole tree that the session belongs to. Deleted sessions are stubs in it."""
    return Response(_nested(await manager.tree(who, session_id)), media_type="application/json")


def _nested(tree: TreeNode) -> bytes:
    """Encode a tree of any depth: the encoder refuses to nest as deep as forks may."""
    parts: list[bytes] = []
    todo: list[TreeNode | bytes] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, bytes):
            parts.append(node)
            continue
        own = {name: value for name, value in node.items() if name != "branches"}
        parts.append(encode(own)[:-1] + b',"branches":[')
        todo.append(b"]}")
        for number, branch in reversed(list(enumerate(node["branches"]))):
            todo.append(branch)
            if number:
                todo.append(b",")
    return b"".join(parts)

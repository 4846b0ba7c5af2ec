"""Webhooks: programs that are told what happens in sessions."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.checks import checked_id, checked_user_id
from bamboo_gateway.api.dependencies import PAGE, Cursor, Limit, Manager, Who
from bamboo_gateway.api.openapi.examples import webhooks as examples
from bamboo_gateway.api.openapi.responses import (
    BODY,
    EDGE,
    KEYED,
    answer,
    nothing,
    problems,
)
from bamboo_gateway.api.prefix import prefix_of
from bamboo_gateway.api.request_headers import Key, SentJson, idempotency
from bamboo_gateway.api.responses import json_response, outcome_headers
from bamboo_gateway.api.schemas.webhooks import (
    Delivery,
    DeliveryPage,
    NewWebhookAnswer,
    RotateInput,
    Webhook,
    WebhookInput,
    WebhookPage,
    WebhookPatch,
)
from bamboo_gateway.api.security.rights import SessionRoute
from bamboo_gateway.api.urls import webhook_url

router = APIRouter(prefix="/api/v1", tags=["webhooks"], route_class=SessionRoute)

WebhookId = Annotated[
    str,
    Path(
        description="The webhook.",
        openapi_examples={"webhook": {"value": "wh_01kag8v3c0d6q0w1x2y3z4a5b6"}},
        json_schema_extra={"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"},
    ),
]

_ONE = (*EDGE, "webhook-not-found")
_CHANGE = ("storage-full", "storage-failed")


@router.post(
    "/webhooks",
    status_code=201,
    summary="Create a webhook",
    responses={
        **answer(201, NewWebhookAnswer, "The webhook.", examples.NEW_WEBHOOK, "Location",
                 "Idempotency-Replayed"),
        **problems(*EDGE, *BODY, *KEYED, *_CHANGE, "webhook-url-refused", "too-many-webhooks"),
    },
)  # fmt: skip
async def create_webhook(
    request: Request,
    body: Annotated[WebhookInput, Body(openapi_examples=examples.WEBHOOKS)],
    manager: Manager,
    who: Who,
    key: Key,
    sent: SentJson,
) -> Response:
    """Have a receiver told, by signed requests, of what happens from now on.

    Each event is sent at least once, with an id that stays the same; the events of one session in
    order. Requests follow Standard Webhooks: verify them with `secret`, which only this answer has.
    A user's webhook is about that user's sessions; the operator's is about all, or about those of
    `user_id`.
    """
    if body.user_id is not None:
        checked_user_id(body.user_id, ("body", "user_id"))
    outcome = await manager.create_webhook(
        who, body.to_new(), idempotency(key, "POST /webhooks", sent)
    )
    webhook_id = outcome.answer["id"]
    name_targets(request, [webhook_id])
    headers = {
        "Location": webhook_url(webhook_id, prefix_of(request.scope)),
        **outcome_headers(outcome),
    }
    return json_response(outcome.answer, 201, headers)


@router.get(
    "/webhooks",
    summary="List webhooks",
    responses={
        **answer(
            200,
            WebhookPage,
            "The webhooks.",
            {"webhooks": [examples.WEBHOOK], "next_cursor": None, "has_more": False},
        ),
        **problems(*EDGE),
    },
)
async def list_webhooks(manager: Manager, who: Who) -> Response:
    """List the caller's webhooks, the oldest first; the operator sees those of users as well."""
    webhooks = await manager.list_webhooks(who)
    return json_response({"webhooks": webhooks, "next_cursor": None, "has_more": False})


@router.get(
    "/webhooks/{webhook_id}",
    summary="Read a webhook",
    responses={
        **answer(200, Webhook, "The webhook.", examples.WEBHOOK),
        **problems(*_ONE),
    },
)
async def get_webhook(manager: Manager, who: Who, webhook_id: WebhookId) -> Response:
    """Return a webhook, without its secret."""
    return json_response(await manager.webhook(who, _checked(webhook_id)))


@router.patch(
    "/webhooks/{webhook_id}",
    summary="Change a webhook",
    responses={
        **answer(200, Webhook, "The webhook.", examples.WEBHOOK),
        **problems(*_ONE, *BODY, *_CHANGE, "webhook-url-refused"),
    },
)
async def change_webhook(
    request: Request,
    body: Annotated[WebhookPatch, Body(openapi_examples=examples.PATCHES)],
    manager: Manager,
    who: Who,
    webhook_id: WebhookId,
) -> Response:
    """Change its address or what it is told of; disable or enable it."""
    name_targets(request, [_checked(webhook_id)])
    if body.user_id is not None:
        checked_user_id(body.user_id, ("body", "user_id"))
    return json_response(await manager.change_webhook(who, webhook_id, body.changes()))


@router.delete(
    "/webhooks/{webhook_id}",
    status_code=204,
    summary="Delete a webhook",
    responses={
        **nothing(204, "The webhook is deleted."),
        **problems(*_ONE, *_CHANGE),
    },
)
async def delete_webhook(
    request: Request, manager: Manager, who: Who, webhook_id: WebhookId
) -> Response:
    """Delete a webhook with what it was to be told, and its deliveries."""
    name_targets(request, [_checked(webhook_id)])
    await manager.delete_webhook(who, webhook_id)
    return Response(status_code=204)


@router.post(
    "/webhooks/{webhook_id}/rotate",
    summary="Replace the secret of a webhook",
    responses={
        **answer(200, NewWebhookAnswer, "The webhook with its new secret.", examples.ROTATED,
                 "Idempotency-Replayed"),
        **problems(*_ONE, *BODY, *KEYED, *_CHANGE),
    },
)  # fmt: skip
async def rotate_webhook_secret(
    request: Request,
    manager: Manager,
    who: Who,
    webhook_id: WebhookId,
    key: Key,
    sent: SentJson,
    body: Annotated[RotateInput | None, Body(openapi_examples=examples.ROTATIONS)] = None,
) -> Response:
    """Make a new secret. For `overlap_seconds` the one before signs each request as well."""
    name_targets(request, [_checked(webhook_id)])
    overlap = (body or RotateInput()).overlap_seconds
    outcome = await manager.rotate_webhook(
        who, webhook_id, overlap, idempotency(key, "POST /rotate", sent)
    )
    return json_response(outcome.answer, 200, outcome_headers(outcome))


@router.post(
    "/webhooks/{webhook_id}/test",
    summary="Test a webhook",
    responses={
        **answer(200, Delivery, "What became of the request.", examples.TESTED),
        **problems(*_ONE, *_CHANGE, "draining"),
    },
)
async def test_webhook(manager: Manager, who: Who, webhook_id: WebhookId) -> Response:
    """Send a signed request of the type `webhook.test` once, and wait for what becomes of it."""
    return json_response(await manager.test_webhook(who, _checked(webhook_id)))


@router.get(
    "/webhooks/{webhook_id}/deliveries",
    summary="List the deliveries of a webhook",
    responses={
        **answer(
            200,
            DeliveryPage,
            "A page of attempts, the latest first.",
            {"deliveries": [examples.DELIVERY], "next_cursor": None, "has_more": False},
        ),
        **problems(*_ONE, "invalid-cursor"),
    },
)
async def list_deliveries(
    manager: Manager,
    who: Who,
    webhook_id: WebhookId,
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> Response:
    """List the latest 200 attempts: when, with which result, and when the next one comes."""
    page = await manager.webhook_deliveries(who, _checked(webhook_id), cursor, limit)
    return json_response(page)


def _checked(webhook_id: str) -> str:
    return checked_id(webhook_id, "webhook id", ("path", "webhook_id"))

"""Users: the erasure of everything of one user."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from bamboo_gateway.api.audit import name_targets
from bamboo_gateway.api.checks import checked_user_id
from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.examples import lifecycle
from bamboo_gateway.api.openapi.responses import EDGE, WRITE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.maintenance import UserErasure
from bamboo_gateway.api.security.rights import OperatorRoute
from bamboo_gateway.domain.api_keys import user_caller
from bamboo_gateway.domain.errors import Forbidden

router = APIRouter(prefix="/api/v1", tags=["maintenance"], route_class=OperatorRoute)


@router.delete(
    "/users/{user_id}",
    summary="Delete everything of one user",
    responses={
        **answer(200, UserErasure, "The receipt.", lifecycle.ERASED),
        **problems(*EDGE, *WRITE),
    },
)
async def erase_user(
    request: Request,
    manager: Manager,
    who: Who,
    user_id: Annotated[
        str,
        Path(description="The user.", openapi_examples={"user": {"value": "user-123"}}),
    ],
    dry_run: Annotated[bool, Query(description="Change nothing; answer what would go.")] = False,
) -> Response:
    """Delete the user's sessions, keys, and the shares that others gave to the user.

    Archived, closed and expired sessions go too, and runs end with their sessions. One call deletes
    at most 1000 sessions: repeat it until `complete` is true. A call after that changes nothing.

    When the answer comes, no route shows anything of the user. `stores` says when nothing is left
    in the files, and `remains` what the gateway cannot reach: backups above all.

    It takes no `Idempotency-Key`, and needs none. Block the user at your identity provider first:
    a user whose tokens are valid can create new sessions.
    """
    checked_user_id(user_id, ("path", "user_id"))
    if who.user_id not in {None, user_id}:
        raise Forbidden("You act for a user: you can erase that one and no other.")
    if not dry_run:
        name_targets(request, [user_id])
        if request.app.state.rates is not None:
            request.app.state.rates.forget(user_caller(user_id, frozenset(), "", None))
    receipt = await manager.erase_user(user_id, dry_run=dry_run)
    return json_response(receipt)

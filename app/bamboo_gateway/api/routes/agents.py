"""The agents that may answer a chat."""

from fastapi import APIRouter
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.examples import conversation
from bamboo_gateway.api.openapi.responses import EDGE, answer, problems
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.api.schemas.agents import AgentList
from bamboo_gateway.api.security.rights import SessionRoute

router = APIRouter(prefix="/api/v1", tags=["chat"], route_class=SessionRoute)


@router.get(
    "/agents",
    summary="List the agents",
    responses={
        **answer(200, AgentList, "The agents, by name.", conversation.AGENTS),
        **problems(*EDGE),
    },
)
async def list_agents(manager: Manager, who: Who) -> Response:
    """List who may answer a chat, and which `options` a chat may set for each.

    `kind` is how the gateway reaches the agent. URLs and secrets are never shown. External runs
    have no agent of their own, and are not listed.
    """
    return json_response({"agents": manager.agents(who)})

"""The routes of models: the agents that a response may name."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.responses import Response

from bamboo_gateway.api.dependencies import Manager, Who
from bamboo_gateway.api.openapi.responses import EDGE, answer
from bamboo_gateway.api.responses import json_response
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.wires.openai import answers
from bamboo_gateway.wires.openai.answers import refusals
from bamboo_gateway.wires.openai.route import PREFIX, OpenAIRoute
from bamboo_gateway.wires.openai.schemas import OpenAIModel, OpenAIModels

router = APIRouter(prefix=PREFIX, tags=["wires"], route_class=OpenAIRoute)

_OWNER: Final = "bamboo"

ModelName = Annotated[
    str,
    Path(description="The agent's name.", json_schema_extra={"pattern": "^[A-Za-z0-9_.-]+$"}),
]


@router.get(
    "/models",
    summary="List the models (OpenAI)",
    responses={
        **answer(200, OpenAIModels, "The agents.", {"object": "list", "data": [answers.MODEL]}),
        **refusals(*EDGE),
    },
)
async def list_openai_models(manager: Manager, who: Who) -> Response:
    """Return the agents that `model` may name."""
    models = [_model(agent["name"]) for agent in manager.agents(who)]
    return json_response({"object": "list", "data": models})


@router.get(
    "/models/{model}",
    summary="Retrieve a model (OpenAI)",
    responses={
        **answer(200, OpenAIModel, "The agent.", answers.MODEL),
        **refusals(*EDGE, "not-found"),
    },
)
async def get_openai_model(manager: Manager, who: Who, model: ModelName) -> Response:
    """Return one agent, which a response may name as `model`."""
    if not any(agent["name"] == model for agent in manager.agents(who)):
        raise NotFound("There is no such model.", code="not-found")
    return json_response(_model(model))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": _OWNER}

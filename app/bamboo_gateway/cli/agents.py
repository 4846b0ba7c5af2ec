"""`bamboo agents`: which agents a gateway has."""

import typer

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import notice, print_json, print_table

commands = typer.Typer(help="Show the agents.", no_args_is_help=True)


@commands.callback()
def _group() -> None:
    """Show the agents."""


@commands.command("list")
def list_agents(
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """List the agents, and the options that a chat may set for each."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        found = client.call("GET", "/agents")["agents"]
    if json:
        for agent in found:
            print_json(agent)
        return
    if not found:
        notice("no agents")
        return
    print_table(
        ("Name", "Kind", "Model", "Options", "Description"),
        [
            (
                agent["name"] + (" (default)" if agent["is_default"] else ""),
                agent["kind"],
                agent["model"] or "",
                _options(agent["options"]),
                agent["description"] or "",
            )
            for agent in found
        ],
    )


def _options(schema: dict[str, object]) -> str:
    properties = schema["properties"]
    names = sorted(properties) if isinstance(properties, dict) else []
    return ", ".join([*names, *(["any other"] if schema["additionalProperties"] else [])])

"""`bamboo branches` and `bamboo regenerate`: the branches inside a session."""

from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import ExitCode, notice, print_json, print_line
from bamboo_gateway.cli.session_ids import whole_id

commands = typer.Typer(no_args_is_help=True, help="List a session's branches, or go to another.")

_Session = Annotated[
    str, typer.Argument(help="The session: its id, or how it begins.", metavar="SESSION")
]


@commands.command("list")
def list_branches(
    session: _Session,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """List the branches of a session, oldest first; `*` marks the current one."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        found = client.call("GET", f"/sessions/{whole_id(client, session)}/branches")
    if json:
        print_json(found)
        return
    for branch in found["branches"]:
        print_line(_shown(branch))


@commands.command("select")
def select_branch(
    session: _Session,
    branch: Annotated[str, typer.Argument(help="The branch's id.", metavar="BRANCH")],
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Go to another branch: the conversation goes on at its end."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        path = f"/sessions/{whole_id(client, session)}/branches/{branch}/select"
        selected = client.call("POST", path)
    if json:
        print_json(selected)
    else:
        print_line(_shown(selected))


def regenerate(
    session: _Session,
    message: Annotated[
        str | None,
        typer.Argument(
            help="An answer, or the message that it answers; default: the last message.",
            metavar="[MESSAGE]",
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="The agent that answers.", metavar="NAME")
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Have a message answered again, in a new branch. The first answer stays in its own.

    Ctrl-C cancels the running answer, a second one exits.
    """
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.runs import CancelOnInterrupt, RegenerateRequest, send, show
    from bamboo_gateway.cli.transcript import Transcript

    with GatewayClient(url, api_key) as client:
        request = RegenerateRequest(whole_id(client, session), message, agent)
        try:
            with CancelOnInterrupt(client, request.session_id, request.run_id) as interrupt:
                run = send(client, request)
                interrupt.begun()
                ended = show(client, run, Transcript())
        except KeyboardInterrupt:
            notice("Stopped watching; the run may continue.")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    if ended != "complete":
        raise typer.Exit(ExitCode.INTERRUPTED if ended == "cancelled" else ExitCode.FAILED)


def _shown(branch: dict[str, Any]) -> str:
    mark = "*" if branch["current"] else " "
    behind = branch["from_message_id"] or "the beginning"
    return f"{mark} {branch['branch_id']}  {branch['message_count']} messages, from {behind}"

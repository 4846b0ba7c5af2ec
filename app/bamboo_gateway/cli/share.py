"""`bamboo share`: let others read a session, and revoke that."""

from typing import Annotated

import typer

from bamboo_gateway.cli.options import (
    DEFAULT_URL,
    WHICH_SESSION,
    ApiKeyOption,
    JsonOption,
    UrlOption,
    session_id,
)
from bamboo_gateway.cli.output import CommandError, ExitCode, notice, print_json, print_line
from bamboo_gateway.cli.session_ids import whole_id

commands = typer.Typer(
    name="share", help="Let others read a session, and revoke that.", no_args_is_help=True
)

Session = Annotated[str, typer.Argument(help=WHICH_SESSION, metavar="ID")]


@commands.command("create")
def create(
    session: Session,
    user: Annotated[str | None, typer.Option(help="Share with this user.", metavar="USER")] = None,
    link: Annotated[bool, typer.Option("--link", help="Share with all who have the link.")] = False,
    expires_in: Annotated[
        int | None,
        typer.Option(min=1, help="The share expires after this many seconds.", metavar="SECONDS"),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(help="`read` (default), or `answer`: also answer requests.", metavar="SCOPE"),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Share a session, read-only or to answer. A link's token is printed only once."""
    from bamboo_gateway.cli.client import API, GatewayClient

    if (user is None) != link:
        raise CommandError("Give --user USER, or --link.", ExitCode.USAGE)
    given = {"user_id": user, "link": link or None, "expires_in": expires_in, "scope": scope}
    body = {name: value for name, value in given.items() if value is not None}
    with GatewayClient(url, api_key) as client:
        one = whole_id(client, session)
        made = client.call("POST", f"/sessions/{one}/shares", json=body)
        if json:
            print_json(made)
        elif link:
            notice(f"{made['id']}: the link, which is shown only this once:")
            print_line(f"{client.url}{API}/sessions/{one}/export?share={made['token']}")
        else:
            print_line(f"{made['id']}  {made['user_id']}")


@commands.command("list")
def list_(
    session: Session,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """List the shares of a session."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        path = f"/sessions/{whole_id(client, session)}/shares"
        shares = client.call("GET", path)["shares"]
    for share in shares:
        if json:
            print_json(share)
            continue
        until = f"  until {share['expires_at']}" if share["expires_at"] else ""
        print_line(f"{share['id']}  {share['user_id'] or 'by link'}{until}")


@commands.command("revoke")
def revoke(
    session: Session,
    share: Annotated[str, typer.Argument(help="Which share.", metavar="SHARE")],
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """End a share, and the streams that were opened with it."""
    from bamboo_gateway.cli.client import GatewayClient

    session_id(share)
    with GatewayClient(url, api_key) as client:
        client.call("DELETE", f"/sessions/{whole_id(client, session)}/shares/{share}")
    notice(f"revoked {share}")

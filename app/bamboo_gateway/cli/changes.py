"""`bamboo changes`: which sessions have changed."""

from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import ExitCode, notice, one_line, print_json, print_line
from bamboo_gateway.domain import codec

_TITLE_CHARS = 200


def changes(
    after: Annotated[
        str | None,
        typer.Option(
            help="Begin after this cursor, which an earlier call has said. Default: now.",
            metavar="CURSOR",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on telling; Ctrl-C exits.")
    ] = False,
    user: Annotated[
        str | None, typer.Option(help="Only sessions of this user.", metavar="USER")
    ] = None,
    session_type: Annotated[
        str | None, typer.Option("--type", help="Only sessions of this type.", metavar="TYPE")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Tell which sessions have changed, each as it is now.

    Without --after and --follow it only says the cursor of this moment.
    """
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.joint_event_stream import ChangeEvents

    filters = {"user_id": user, "session_type": session_type}
    with GatewayClient(url, api_key) as client:
        if not follow:
            cursor = after
            while True:
                params = {**filters, "after": cursor}
                page = client.call("GET", "/changes", params=params)
                for change in page["changes"]:
                    _print(change, as_json=json)
                cursor = page["next"]
                if not page["has_more"]:
                    break
            notice(f"Continue with: bamboo changes --after {cursor}")
            return
        stream = ChangeEvents(client, filters, after=after, notify=notice)
        try:
            for _, change, _data in stream:
                _print(change, as_json=json)
        except KeyboardInterrupt:
            notice(f"Continue with: bamboo changes --follow --after {stream.position or after}")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _print(change: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(codec.encode(change).decode())
        return
    match change["type"]:
        case "reset":
            notice("The cursor cannot be served any more: list the sessions again.")
        case "session_gone":
            print_line(f"{change['session_id']}  gone")
        case _:
            title = one_line(change["title"] or "", _TITLE_CHARS)
            print_line(f"{change['session_id']}  {change['state']:<12} {title}".rstrip())

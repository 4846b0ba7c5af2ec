"""`bamboo webhooks`: have other programs told what happens in sessions."""

from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import (
    DEFAULT_URL,
    ApiKeyOption,
    JsonOption,
    UrlOption,
    session_id,
)
from bamboo_gateway.cli.output import notice, print_json, print_line

commands = typer.Typer(
    name="webhooks",
    help="Have other programs told what happens in sessions.",
    no_args_is_help=True,
)

Which = Annotated[str, typer.Argument(help="The webhook's id.", metavar="ID")]


@commands.command("list")
def list_(
    json: JsonOption = False, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None
) -> None:
    """List the webhooks, the oldest first."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        webhooks = client.call("GET", "/webhooks")["webhooks"]
    for webhook in webhooks:
        if json:
            print_json(webhook)
        else:
            print_line(f"{webhook['id']}  {_state(webhook)}  {webhook['url']}")


@commands.command("create")
def create(
    receiver: Annotated[str, typer.Argument(help="Where requests are sent.", metavar="RECEIVER")],
    event: Annotated[
        list[str] | None,
        typer.Option(
            help="What the receiver is told of; may be given several times. Default: run.ended.",
            metavar="EVENT",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Only sessions of this user.", metavar="USER")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Create a webhook. Its secret is printed only once."""
    from bamboo_gateway.cli.client import GatewayClient

    body: dict[str, Any] = {"url": receiver, "events": event or ["run.ended"]}
    if user is not None:
        body["user_id"] = user
    with GatewayClient(url, api_key) as client:
        _show_secret(client.call("POST", "/webhooks", json=body), json=json)


@commands.command("show")
def show(
    webhook: Which,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show a webhook."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        shown = client.call("GET", _path(webhook))
    if json:
        print_json(shown)
        return
    print_line(f"{shown['id']}  {_state(shown)}")
    print_line(f"url      {shown['url']}")
    print_line(f"events   {', '.join(shown['events'])}")
    print_line(f"sessions {shown['user_id'] or 'all'}")
    if shown["failing_since"]:
        print_line(f"failing since {shown['failing_since']}")


@commands.command("delete")
def delete(webhook: Which, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None) -> None:
    """Delete a webhook, and what it was to be told."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        client.call("DELETE", _path(webhook))
    notice(f"deleted {webhook}")


@commands.command("enable")
def enable(webhook: Which, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None) -> None:
    """Enable a webhook: what waits is sent, and what happens from now on."""
    _change(webhook, {"enabled": True}, url, api_key)
    notice(f"enabled {webhook}")


@commands.command("disable")
def disable(webhook: Which, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None) -> None:
    """Disable a webhook: what waits is kept, and what happens from now on is not told."""
    _change(webhook, {"enabled": False}, url, api_key)
    notice(f"disabled {webhook}")


@commands.command("test")
def send_test(
    webhook: Which,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Send the receiver one request that says nothing."""
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.output import CommandError

    with GatewayClient(url, api_key) as client:
        shown = client.call("POST", f"{_path(webhook)}/test")
    if json:
        print_json(shown)
    else:
        print_line(f"{_result(shown)}  {shown['duration_ms']} ms")
    if shown["error"] is not None:
        raise CommandError(f"the receiver did not acknowledge the request ({shown['error']})")


@commands.command("rotate")
def rotate(
    webhook: Which,
    overlap: Annotated[
        int,
        typer.Option(min=0, help="How long the present secret signs as well.", metavar="SECONDS"),
    ] = 24 * 3600,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Give a webhook a new secret, which is printed only once."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        body = {"overlap_seconds": overlap}
        _show_secret(client.call("POST", f"{_path(webhook)}/rotate", json=body), json=json)


@commands.command("deliveries")
def deliveries(
    webhook: Which,
    limit: Annotated[
        int, typer.Option(min=1, max=1000, help="The most that are shown.", metavar="NUMBER")
    ] = 20,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show what became of the latest requests, the latest first."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        page = client.call("GET", f"{_path(webhook)}/deliveries", params={"limit": limit})
    for one in page["deliveries"]:
        if json:
            print_json(one)
            continue
        again = f"  again at {one['next_attempt_at']}" if one["next_attempt_at"] else ""
        about = one["session_id"] or ""
        print_line(
            f"{one['attempted_at']}  {_result(one)}  #{one['attempt']}  {one['type']}  "
            f"{about}{again}"
        )


def _path(webhook: str) -> str:
    return f"/webhooks/{session_id(webhook, 'webhook id')}"


def _change(webhook: str, body: dict[str, Any], url: str, api_key: str | None) -> None:
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        client.call("PATCH", _path(webhook), json=body)


def _state(webhook: dict[str, Any]) -> str:
    return "enabled" if webhook["enabled"] else f"disabled ({webhook['disabled_reason']})"


def _result(delivery: dict[str, Any]) -> str:
    if delivery["error"] in {None, "status"}:
        return str(delivery["status"])
    return str(delivery["error"])


def _show_secret(made: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(made)
        return
    notice(f"{made['id']}: the secret, which is shown only this once:")
    print_line(made["secret"])

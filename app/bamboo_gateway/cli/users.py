"""`bamboo users`: delete everything of one user."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    notice,
    one_line,
    print_json,
    print_line,
)

commands = typer.Typer(help="Delete everything of one user.", no_args_is_help=True)

_COUNTED = ("sessions", "archives", "bytes_freed", "shares", "keys", "files", "exports")
_TRIES_MAX = 100
"""Calls that may bring nothing forward, before the command gives up."""


@commands.callback()
def _users() -> None:
    """Delete everything of one user."""


@commands.command("delete")
def delete(
    user: Annotated[str, typer.Argument(help="Which user.", metavar="USER", show_default=False)],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; only show what would go.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Delete the sessions, archives, keys and shares of one user, and print the receipt.

    It needs an operator's key. What is deleted cannot be brought back. A command that was
    interrupted is repeated: it continues.
    """
    from bamboo_gateway.cli.client import GatewayClient

    path = f"/users/{quote(user, safe='')}"
    with GatewayClient(url, api_key) as client:
        if dry_run or not yes:
            would = client.call("DELETE", path, params={"dry_run": "true"})
            if dry_run:
                _print(would, json=json)
                return
            notice(_in_words(would))
            if not typer.confirm(f"Delete everything of {one_line(user)}?", err=True):
                raise CommandError("nothing was deleted", ExitCode.FAILED)
        receipt = client.call("DELETE", path)
        for _ in range(_TRIES_MAX):
            if receipt["complete"] or receipt["failed"]:
                break
            notice(f"{receipt['sessions_left']} sessions are left")
            receipt = _joined(receipt, client.call("DELETE", path))
    _print(receipt, json=json)
    if not receipt["complete"]:
        raise CommandError("not everything is deleted yet; repeat the command", ExitCode.FAILED)


def _joined(former: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
    """Return one receipt for several calls."""
    sums = {name: former[name] + receipt[name] for name in _COUNTED}
    return {**receipt, **sums}


def _in_words(receipt: dict[str, Any]) -> str:
    counts = {name: receipt[name] for name in _COUNTED}
    done = "would be deleted" if receipt["dry_run"] else "deleted"
    return (
        "{sessions} sessions, {archives} archives ({bytes_freed} bytes), {shares} shares, {keys} "
        "keys, {files} files and {exports} exported files ".format(**counts)
        + f"of {one_line(receipt['user_id'])} {done}"
    )


def _print(receipt: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(receipt)
        return
    print_line(_in_words(receipt))
    for part in receipt["stores"]:
        print_line(f"  gone {part['gone']}: {part['what']} ({part['store']})")
    for one in receipt["remains"]:
        print_line(f"  remains in {one['where']}: {one['what']}, until {one['until']}")
    for one in receipt["failed"]:
        print_line(f"  failed: {one['session_id']}  {one['code']}")

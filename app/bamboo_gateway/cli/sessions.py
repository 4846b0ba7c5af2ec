"""`bamboo sessions`: list, show, close, reopen and delete sessions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamboo_gateway.cli.lifecycle import Ids, One, check_answerable, confirm
from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    harmless,
    notice,
    one_line,
    print_json,
    print_line,
    print_table,
)
from bamboo_gateway.cli.session_ids import ids_to_delete, whole_id

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient

# The largest page that the gateway returns.
PAGE_MAX = 1000

commands = typer.Typer(help="List, show, close, reopen and delete sessions.", no_args_is_help=True)


@commands.command("list")
def list_sessions(
    user_id: Annotated[str | None, typer.Option(help="Only sessions of this user.")] = None,
    state: Annotated[
        str | None,
        typer.Option(help="active, idle, disconnected, closed, expired or archived."),
    ] = None,
    session_type: Annotated[str | None, typer.Option(help="user, sub_agent or scheduled.")] = None,
    title_contains: Annotated[
        str | None, typer.Option(help="Only sessions with this in the title; ignores case.")
    ] = None,
    q: Annotated[
        str | None,
        typer.Option("--search", "-q", help="Only sessions with these words in a message."),
    ] = None,
    created_after: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339.")] = None,
    created_before: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339.")] = None,
    active_after: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339.")] = None,
    parent_id: Annotated[str | None, typer.Option(help="Only forks of this session.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Only sessions with this in their metadata; repeatable."
        ),
    ] = None,
    shared: Annotated[
        bool,
        typer.Option(
            "--shared", help="The sessions that others share with you, instead of your own."
        ),
    ] = False,
    sort_by: Annotated[
        str | None,
        typer.Option(help="last_activity_at, created_at, updated_at, message_count or title."),
    ] = None,
    sort_order: Annotated[str | None, typer.Option(help="asc or desc.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most sessions to list.")] = 50,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """List sessions, the last active first."""
    from bamboo_gateway.cli.client import GatewayClient

    filters = {
        "user_id": user_id,
        "state": state,
        "session_type": session_type,
        "title_contains": title_contains,
        "q": q,
        "created_after": created_after,
        "created_before": created_before,
        "active_after": active_after,
        "shared": "true" if shared else None,
        "sort_by": sort_by,
        "sort_order": sort_order,
    }
    for pair in metadata or ():
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise CommandError(f"--metadata: write KEY=VALUE, not {pair!r}", ExitCode.USAGE)
        filters[f"metadata.{key}"] = value
    with GatewayClient(url, api_key) as client:
        if parent_id is not None:
            filters["parent_id"] = whole_id(client, parent_id)
        found = pages(client, "/sessions", "sessions", filters, limit)
        if json:
            for session in found:
                print_json(session)
        else:
            _print_sessions(list(found))


@commands.command("show")
def show_session(
    session: One,
    messages: Annotated[
        bool, typer.Option("--messages", "-m", help="Show the messages too.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show one session, and with --messages the conversation."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        path = f"/sessions/{whole_id(client, session)}"
        found = client.call("GET", path)
        said = pages(client, f"{path}/messages", "messages", {}, None) if messages else iter(())
        if json:
            print_json({**found, "messages": list(said)} if messages else found)
            return
        _print_fields(found)
        for message in said:
            _print_message(message)


@commands.command("close")
def close_sessions(
    sessions: Ids,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Make sessions read-only. Their streams end; `reopen` makes them writable again."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        for one in sessions:
            path = f"/sessions/{whole_id(client, one)}/close"
            _print_changed(client.call("POST", path), json=json)


@commands.command("reopen")
def reopen_sessions(
    sessions: Ids,
    ttl_seconds: Annotated[
        int | None,
        typer.Option(
            "--ttl", min=1, metavar="SECONDS", help="A new time to live, counted from now."
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--no-ttl", help="Remove the time to live: keep until deleted.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Make closed or expired sessions writable again. By default their time to live starts anew."""
    from bamboo_gateway.cli.client import GatewayClient

    if keep and ttl_seconds is not None:
        raise CommandError("--ttl and --no-ttl exclude each other.", ExitCode.USAGE)
    body = {"ttl_seconds": ttl_seconds} if keep or ttl_seconds is not None else {}
    with GatewayClient(url, api_key) as client:
        for one in sessions:
            path = f"/sessions/{whole_id(client, one)}/reopen"
            _print_changed(client.call("POST", path, json=body), json=json)


@commands.command("delete")
def delete_sessions(
    sessions: Ids,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Delete sessions with everything in them. This cannot be undone."""
    from bamboo_gateway.cli.client import GatewayClient

    if not yes:
        check_answerable()
    with GatewayClient(url, api_key) as client:
        ids = ids_to_delete(client, sessions, asking=not yes)
        if not yes:
            confirm(f"Delete {', '.join(ids)} for good?")
        for one in ids:
            client.call("DELETE", f"/sessions/{one}")
            notice(f"deleted {one}")


def _print_changed(session: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(session)
    else:
        print_line(f"{session['id']}  {session['state']}")


def pages(
    client: "GatewayClient",
    path: str,
    name: str,
    filters: dict[str, Any],
    limit: int | None,
) -> Iterator[dict[str, Any]]:
    """Yield the items of a list across its pages, at most `limit` of them."""
    cursor = "after" if name == "messages" else "cursor"
    params = dict(filters)
    left = limit
    while left is None or left > 0:
        params["limit"] = PAGE_MAX if left is None else min(left, PAGE_MAX)
        page = client.call("GET", path, params=params)
        yield from page[name]
        if not page["has_more"]:
            return
        params[cursor] = page["next_cursor"]
        left = None if left is None else left - len(page[name])


def _print_sessions(found: list[dict[str, Any]]) -> None:
    if not found:
        notice("no sessions")
        return
    print_table(
        ("ID", "State", "Last activity", "Messages", "Title"),
        [
            (
                session["id"],
                session["state"],
                session["last_activity_at"],
                str(session["message_count"]),
                session["title"] or session.get("preview") or "",
            )
            for session in found
        ],
    )


def _print_fields(session: dict[str, Any]) -> None:
    from bamboo_gateway.domain import codec

    width = max(map(len, session))
    for name, value in session.items():
        text = value if isinstance(value, str) else codec.encode(value).decode()
        print_line(f"{harmless(name):<{width}}  {one_line(text, 500)}")


def _print_message(message: dict[str, Any]) -> None:
    from bamboo_gateway.cli.transcript import text_of

    status = "" if message["status"] == "complete" else f" ({message['status']})"
    print_line(f"\n{message['role']}{status}  {message['created_at']}", "bold")
    if text := text_of(message["content"]):
        print_line(text)
    for call in message.get("tool_calls") or ():
        print_line(one_line(f"→ {call['name']} {call['arguments']}"), "cyan")

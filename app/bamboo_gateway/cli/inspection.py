"""`bamboo tree`, `resume`, `stats`, `report`, `extensions`, `diagnose`: look at sessions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamboo_gateway.cli.lifecycle import One
from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import (
    CommandError,
    notice,
    one_line,
    print_json,
    print_line,
    stdout,
    styled,
    unwrapped,
)
from bamboo_gateway.cli.session_ids import whole_id
from bamboo_gateway.domain import codec

if TYPE_CHECKING:
    from rich.tree import Tree


def tree(
    session: One,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show the whole branch tree that a session belongs to; the session itself is marked."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        found = client.call("GET", f"/sessions/{whole_id(client, session)}/tree")
    if json:
        print_json(_encoded(found))
        return
    unwrapped().print(_drawn(found, found["current"]))
    if found["truncated"]:
        notice("the tree is larger than what is shown")


def resume(
    session: One,
    non_interactive: Annotated[
        bool,
        typer.Option("--non-interactive", help="Tell the model to continue without asking."),
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Print the message that carries a conversation into a new context."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        found = client.call(
            "GET",
            f"/sessions/{whole_id(client, session)}/resume",
            params={"interactive": not non_interactive},
        )["message"]
    if json:
        print_json(found)
    else:
        print_line(found["content"])


def stats(
    session: Annotated[
        str | None, typer.Argument(help="Which session; default: all together.", metavar="[ID]")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show the statistics of one session, or of all sessions together."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        path = "" if session is None else f"/sessions/{whole_id(client, session)}"
        found = client.call("GET", f"{path}/statistics")
    if json:
        print_json(found)
    else:
        _print_fields(found)


def report(
    session: One,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Print a session's report, as Markdown or JSON."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        path = f"/sessions/{whole_id(client, session)}/report"
        if json:
            print_json(client.call("GET", path))
            return
        with client.download("GET", path, headers={"Accept": "text/markdown"}) as chunks:
            print_line(b"".join(chunks).decode().rstrip())


def extensions(
    session: One,
    todo: Annotated[str | None, typer.Option(help="Set the todo list.", metavar="TEXT")] = None,
    enable: Annotated[
        list[str] | None, typer.Option(help="Enable an extension.", metavar="NAME")
    ] = None,
    disable: Annotated[
        list[str] | None, typer.Option(help="Disable an extension.", metavar="NAME")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Show a session's extension data, or change it."""
    from urllib.parse import quote

    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        base = f"/sessions/{whole_id(client, session)}"
        found = client.call("GET", f"{base}/extensions")
        present = {one["name"]: one["config"] for one in found["enabled_extensions"]}
        changes = [(name, True) for name in enable or ()] + [(n, False) for n in disable or ()]
        for name, enabled in changes:
            body = {"config": present.get(name, {}), "enabled": enabled}
            client.call("PUT", f"{base}/extensions/{quote(name, safe='')}", json=body)
        if todo is not None:
            client.call("PUT", f"{base}/todo", json={"content": todo})
        if changes or todo is not None:
            found = client.call("GET", f"{base}/extensions")
    if json:
        print_json(found)
        return
    for one in found["enabled_extensions"]:
        mark = "on " if one["enabled"] else "off"
        print_line(f"{mark}  {one['name']}  {codec.encode(one['config']).decode()}")
    if found["todo_state"]:
        print_line(found["todo_state"]["content"])
    for name, value in found["custom"].items():
        print_line(f"{name}: {one_line(codec.encode(value).decode(), 500)}")


def diagnose(
    session: Annotated[
        str | None,
        typer.Argument(help="Write a bug report of this session.", metavar="[ID]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file of the bug report (a zip).", metavar="FILE"),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Check the running gateway, or write a bug report of one session with secrets masked."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        if session is None:
            _print_checks(client.call("GET", "/diagnostics"), json=json)
            return
        name = whole_id(client, session)
        target = output or Path(f"bamboo-{name}.zip")
        with client.download("GET", f"/sessions/{name}/diagnostics") as chunks:
            data = b"".join(chunks)
    try:
        size = target.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{target}: {error.strerror}") from error
    if json:
        print_json({"path": str(target), "bytes": size})
    else:
        notice(f"{target}: {size} bytes; read it before you send it")


def _print_checks(found: dict[str, Any], *, json: bool) -> None:
    styles = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in found["checks"]:
        if json:
            print_json(check)
            continue
        status = check["status"]
        line = styled(f"{status:<4}  ", styles.get(status, "")) + styled(check["name"], "bold")
        todo = f"; to do: {check['action']}" if check["action"] else ""
        stdout().print(line, styled(one_line(f"{check['seen']}{todo}", 500)), soft_wrap=True)
    if found["status"] == "fail":
        raise CommandError("A check failed.")


def _drawn(node: dict[str, Any], current: str) -> "Tree":
    from rich.tree import Tree

    root = Tree(_label(node, current))
    todo = [(root, branch) for branch in reversed(node["branches"])]
    while todo:
        above, branch = todo.pop()
        place = above.add(_label(branch, current))
        todo += [(place, below) for below in reversed(branch["branches"])]
    return root


def _label(node: dict[str, Any], current: str) -> Any:
    is_current = node["session_id"] == current
    label = styled(node["session_id"], "bold" if is_current else "")
    if node["title"]:
        label += styled(f"  {one_line(node['title'], 60)}")
    if node["state"] in {"archived", "deleted", "closed", "expired", "active"}:
        label += styled(f"  [{node['state']}]", "dim")
    if node["merged_from"]:
        label += styled(f"  ← {', '.join(node['merged_from'])}", "cyan")
    if is_current:
        label += styled("  ◀ this one", "green")
    return label


def _encoded(tree: dict[str, Any]) -> bytes:
    """Encode a tree as JSON.

    Raises:
        CommandError: The tree is deeper than the encoder nests.
    """
    try:
        return codec.encode(tree)
    except TypeError as error:
        raise CommandError("The tree is too deep to be printed as JSON.") from error


def _print_fields(found: dict[str, Any], indent: str = "") -> None:
    width = max(map(len, found), default=0)
    for name, value in found.items():
        if isinstance(value, dict) and value:
            print_line(f"{indent}{name}")
            _print_fields(value, indent + "  ")
        elif isinstance(value, list):
            print_line(f"{indent}{name}")
            for one in value:
                print_line(f"{indent}  {one_line(codec.encode(one).decode())}")
        else:
            print_line(f"{indent}{name:<{width}}  {'' if value is None else value}")

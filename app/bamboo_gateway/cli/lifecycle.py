"""`bamboo archive`, `restore`, `fork`, `merge`, `cleanup`: the lifecycle of sessions."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamboo_gateway.cli.options import (
    DEFAULT_URL,
    WHICH_SESSION,
    WHICH_SESSIONS,
    ApiKeyOption,
    JsonOption,
    UrlOption,
    session_id,
)
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    notice,
    one_line,
    print_json,
    print_line,
    stderr,
)
from bamboo_gateway.cli.session_ids import AmbiguousIdError, ids_to_delete, whole_id

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient

_AT_ONCE = 50
"""Sessions in one bulk request, which is one step of the progress bar."""

Ids = Annotated[list[str], typer.Argument(help=WHICH_SESSIONS, metavar="ID…")]
One = Annotated[str, typer.Argument(help=WHICH_SESSION, metavar="ID")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Change nothing; only show what would change.")
]


def archive(
    sessions: Annotated[
        list[str] | None,
        typer.Argument(help="Which sessions; default: list the archive.", metavar="[ID…]"),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete archived sessions permanently.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Archive sessions: read-only, compressed, out of the lists. Without any, list the archive."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        if not sessions:
            _list_archive(client, json=json)
        elif delete:
            _delete_archived(client, sessions, dry_run=dry_run, yes=yes)
        elif dry_run:
            for one in sessions:
                found = client.call("GET", f"/sessions/{whole_id(client, one)}")
                notice(f"would archive {found['id']}")
        else:
            _bulk(client, "/archive", "archived", sessions, json=json)


def restore_archived(sessions: Sequence[str], *, json: bool, url: str, api_key: str | None) -> None:
    """Bring archived sessions back, with everything they had: a part of `bamboo restore`."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        _bulk(client, "/archive/restore", "restored", sessions, json=json)


def fork(
    session: One,
    at: Annotated[
        str | None, typer.Option(help="Last message of the fork (default: the last).", metavar="ID")
    ] = None,
    index: Annotated[
        int | None, typer.Option(min=0, help="The same by index, from 0.", metavar="N")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Title of the fork.", metavar="TITLE")] = None,
    new_id: Annotated[str | None, typer.Option(help="Id of the fork.", metavar="ID")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Do not copy the parent's metadata and extension data.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Create a new session from the beginning of a session."""
    from bamboo_gateway.cli.client import GatewayClient

    body = {
        "from_message_id": at,
        "from_message_index": index,
        "new_name": name,
        "new_id": new_id,
        "metadata_strategy": "reset" if reset else None,
    }
    given = {field: value for field, value in body.items() if value is not None}
    with GatewayClient(url, api_key) as client:
        made = client.call("POST", f"/sessions/{whole_id(client, session)}/fork", json=given)
    if made.get("cut_moved"):
        notice(made["detail"])
    _say(made, f"{made['id']}  {made['message_count']} messages", json=json)


def merge(
    target: Annotated[
        str, typer.Argument(help="The session that gets the messages.", metavar="TARGET")
    ],
    source: Annotated[
        str, typer.Argument(help="The session whose messages are copied.", metavar="SOURCE")
    ],
    strategy: Annotated[str, typer.Option(help="append, interleave or replace.")] = "append",
    metadata: Annotated[
        str, typer.Option(help="Which metadata and usage stay: target, source or merge.")
    ] = "target",
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Merge the messages of one session into another, each once. The source is kept."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        body = {
            "source_id": whole_id(client, source),
            "strategy": strategy,
            "metadata_strategy": metadata,
        }
        merged = client.call("POST", f"/sessions/{whole_id(client, target)}/merge", json=body)
    _say(merged, f"{merged['id']}  {merged['message_count']} messages", json=json)


def cleanup(
    before: Annotated[
        str | None,
        typer.Option(
            help="All without activity since then (RFC 3339), whatever their retention.",
            metavar="TIME",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Delete sessions that expired cleanup_period_days ago. --dry-run only shows them.

    Archived sessions are deleted archive_retention_days after they were archived, if that is set.
    What is deleted cannot be brought back.
    """
    from bamboo_gateway.cli.client import GatewayClient

    wanted = {"before": before} if before else {}
    with GatewayClient(url, api_key) as client:
        if not dry_run and not yes:
            due = client.call("POST", "/cleanup", json={**wanted, "dry_run": True})
            count = len(due["session_ids"])
            confirm(f"Delete {count} sessions ({due['bytes_freed']} bytes) for good?")
        stats = client.call("POST", "/cleanup", json={**wanted, "dry_run": dry_run})
    if json:
        print_json(stats)
        return
    for one in stats["session_ids"]:
        print_line(one)
    did = "would delete" if dry_run else "deleted"
    notice(
        f"{did} {stats['sessions_cleaned']} sessions and {stats['archives_cleaned']} archived "
        f"ones, {stats['bytes_freed']} bytes"
    )


def confirm(question: str) -> None:
    """Ask before something is deleted; end the command unless the answer is yes.

    Raises:
        CommandError: Standard input is no terminal.
    """
    check_answerable()
    typer.confirm(question, abort=True)


def check_answerable() -> None:
    """Refuse to ask where standard input is no terminal.

    Raises:
        CommandError: Standard input is no terminal.
    """
    if not sys.stdin.isatty():
        raise CommandError("Deleting asks first, and nobody can answer: use --yes.", ExitCode.USAGE)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show a progress bar on a terminal and yield the function that advances it.

    That function takes how many were done, and how many more there are than was known before.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress

    console = stderr()
    with Progress(
        what,
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(count: int, more: int = 0) -> None:
            nonlocal total
            total += more
            bar.update(task, advance=count, total=total)

        yield advance


def _bulk(
    client: "GatewayClient", path: str, done_name: str, sessions: Sequence[str], *, json: bool
) -> None:
    for one in sessions:
        session_id(one)
    failed = 0
    with progress(done_name, len(sessions)) as advance:
        for start in range(0, len(sessions), _AT_ONCE):
            part = sessions[start : start + _AT_ONCE]
            for answer in _bulk_answers(client, path, part):
                for one in answer.get(done_name, ()):
                    _say(one, f"{done_name} {one['session_id']}  {one['bytes']} bytes", json=json)
                for one in answer["failed"]:
                    notice(f"{one['session_id']}: {one_line(one['detail'])} ({one['code']})")
                failed += len(answer["failed"])
            advance(len(part))
    if failed:
        raise CommandError(f"{failed} of {len(sessions)} were not {done_name}.")


def _bulk_answers(
    client: "GatewayClient", path: str, sessions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield the answers to a bulk request, and to a second one for completed ids.

    The first request has the ids as they were typed. Only ids that the gateway does not know are
    completed: whole ids, which are most of them, cost no request of their own.
    """
    answer = client.call("POST", path, json={"session_ids": list(sessions)})
    failed: list[dict[str, Any]] = []
    again: list[str] = []
    for one in answer["failed"]:
        if one["code"] != "session-not-found":
            failed.append(one)
            continue
        try:
            whole = whole_id(client, one["session_id"])
        except AmbiguousIdError as error:
            failed.append({**one, "detail": error.line, "code": "ambiguous-id"})
            continue
        if whole == one["session_id"]:
            failed.append(one)
        else:
            again.append(whole)
    yield {**answer, "failed": failed}
    if again:
        yield client.call("POST", path, json={"session_ids": again})


def _list_archive(client: "GatewayClient", *, json: bool) -> None:
    params: dict[str, Any] = {"limit": 1000}
    while True:
        page = client.call("GET", "/archive", params=params)
        for one in page["archives"]:
            session = one["session"]
            title = one_line(session["title"] or "", 60)
            line = f"{session['id']}  {one['archived_at']}  {one['bytes']} bytes  {title}"
            _say(one, line, json=json)
        if not page["has_more"]:
            return
        params["cursor"] = page["next_cursor"]


def _delete_archived(
    client: "GatewayClient", sessions: Sequence[str], *, dry_run: bool, yes: bool
) -> None:
    ids = ids_to_delete(client, sessions, asking=dry_run or not yes)
    for one in ids:
        client.call("GET", f"/archive/{one}")
    if dry_run:
        for one in ids:
            notice(f"would delete {one}")
        return
    if not yes:
        confirm(f"Delete {', '.join(ids)} for good?")
    with progress("deleted", len(ids)) as advance:
        for one in ids:
            client.call("DELETE", f"/archive/{one}")
            notice(f"deleted {one}")
            advance(1)


def _say(shape: dict[str, Any], line: str, *, json: bool) -> None:
    if json:
        print_json(shape)
    else:
        print_line(line)

"""`bamboo export` and `bamboo import`: write sessions as documents, and read documents back."""

import sys
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from bamboo_gateway.cli.lifecycle import progress
from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    notice,
    one_line,
    print_json,
    print_line,
    write,
)
from bamboo_gateway.cli.session_ids import whole_id
from bamboo_gateway.domain import codec

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient


def export(
    sessions: Annotated[
        list[str], typer.Argument(help="Which sessions; several become a zip file.", metavar="ID…")
    ],
    form: Annotated[str, typer.Option("--format", "-f", help="markdown, json or yaml.")] = (
        "markdown"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file; default: stdout.", metavar="FILE"),
    ] = None,
    no_metadata: Annotated[
        bool,
        typer.Option("--no-metadata", help="Only id, title, times and messages."),
    ] = False,
    no_tool_calls: Annotated[
        bool, typer.Option("--no-tool-calls", help="Without tool calls and results.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Write a session as a document: Markdown for people, JSON or YAML without loss."""
    from bamboo_gateway.cli.client import GatewayClient

    if output is None and (len(sessions) > 1 or json) and sys.stdout.isatty():
        raise CommandError(
            "A zip file cannot be printed: name a file with --output.", ExitCode.USAGE
        )
    options = {
        "format": form,
        "include_metadata": not no_metadata,
        "include_tool_calls": not no_tool_calls,
    }
    with GatewayClient(url, api_key) as client, _target(output) as file:
        ids = [whole_id(client, one) for one in sessions]
        size = 0
        if len(ids) == 1:
            path, method, body = f"/sessions/{ids[0]}/export", "GET", None
        else:
            path, method, body = "/export", "POST", {"session_ids": ids, **options}
        params = options if body is None else {}
        with client.download(method, path, params=params, json=body) as chunks:
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
    if output is not None:
        if json:
            print_json({"path": str(output), "bytes": size})
        else:
            notice(f"{output}: {size} bytes")


def import_(
    files: Annotated[list[Path], typer.Argument(help="Documents; - is stdin.", metavar="FILE…")],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="json, yaml, claude-code, codex, chatgpt or goose; default: detected.",
        ),
    ] = None,
    keep_id: Annotated[
        bool, typer.Option("--keep-id", help="Keep the id of the document.")
    ] = False,
    conversation: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Import only this conversation of a document with several; default: all.",
            metavar="N",
        ),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Create sessions from documents: Bamboo's, Claude Code's, Codex's, ChatGPT's and goose's."""
    from bamboo_gateway.cli.client import GatewayClient, RefusedError

    params: dict[str, Any] = {"id": "keep" if keep_id else "new"}
    params |= {"format": form} if form else {}
    done = failed = 0
    with GatewayClient(url, api_key) as client, progress("imported", len(files)) as advance:
        for file in files:
            try:
                for made in _imported(client, _read(file), params, conversation):
                    advance(1, made["of"] - 1 if made["conversation"] == 1 else 0)
                    is_there = _tell_imported(file, made, json=json)
                    done, failed = done + is_there, failed + (not is_there)
            except RefusedError as error:
                failed += 1
                notice(f"{file}: {one_line(error.line)}")
                advance(1)
    if failed:
        raise CommandError(f"{failed} of {done + failed} were not imported.")


def _imported(
    client: "GatewayClient", content: bytes, params: dict[str, Any], conversation: int | None
) -> Iterator[dict[str, Any]]:
    """Import a document and yield the result of each conversation as the gateway reports it."""
    if conversation is not None:
        given = {**params, "conversation": conversation}
        session = client.call("POST", "/import", params=given, content=content)
        yield {"conversation": 1, "of": 1, "notes": session.pop("notes"), "session": session}
        return
    given = {**params, "conversation": "all"}
    rest = b""
    with client.download("POST", "/import", params=given, content=content) as pieces:
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            yield from map(codec.decode, lines)
    if rest:
        raise CommandError("The gateway's answer broke off.")


def _tell_imported(file: Path, made: dict[str, Any], *, json: bool) -> bool:
    """Print the result of one conversation; return whether it became a session."""
    for note in made["notes"]:
        notice(f"{file}, {one_line(note['place'])}: {one_line(note['what'])}")
    if "session" not in made:
        where = f"{file}, conversation {made['conversation']}" if made["of"] > 1 else str(file)
        notice(f"{where}: {one_line(made['detail'])} ({made['code']})")
        return False
    session = made["session"]
    if json:
        print_json(session | {"notes": made["notes"]})
    else:
        print_line(f"{session['id']}  {session['message_count']} messages")
    return True


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", ExitCode.USAGE) from error


@contextmanager
def _target(output: Path | None) -> "Iterator[BinaryIO | _Screen]":
    """Yield what the document is written to. A file appears whole or not at all."""
    if output is None and sys.stdout.isatty():
        yield _Screen()
        return
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    aside = output.with_name(f".{output.name}.part")
    try:
        with aside.open("wb") as file:
            yield file
        aside.replace(output)
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}") from error
    finally:
        aside.unlink(missing_ok=True)


class _Screen:
    """Write a document to a terminal, with control characters escaped: JSON allows C1 ones."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def write(self, data: bytes) -> None:
        """Print a piece of a document."""
        write(self._decoder.decode(data))

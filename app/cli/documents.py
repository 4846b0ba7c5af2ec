"""`bamboo export` and `bamboo import`: sessions as documents, and back."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from app.cli.life import progress
from app.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption, session_id
from app.cli.output import CommandError, ExitCode, notice, one_line, print_json, print_line


def export(
    sessions: Annotated[
        list[str], typer.Argument(help="Which sessions; several make a zip.", metavar="ID…")
    ],
    form: Annotated[str, typer.Option("--format", "-f", help="markdown, json or yaml.")] = (
        "markdown"
    ),
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file; without it stdout.", metavar="FILE"),
    ] = None,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Without metadata.")] = False,
    no_tool_calls: Annotated[
        bool, typer.Option("--no-tool-calls", help="Without tool calls and results.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Write a session as a document: Markdown for people, JSON or YAML without loss."""
    from app.cli.client import GatewayClient

    ids = [session_id(one) for one in sessions]
    if output is None and (len(ids) > 1 or json) and sys.stdout.isatty():
        raise CommandError("A zip is no text: name a file with --output.", ExitCode.USAGE)
    options = {
        "format": form,
        "include_metadata": not no_metadata,
        "include_tool_calls": not no_tool_calls,
    }
    with GatewayClient(url, api_key) as client, _target(output) as file:
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
            help="json, yaml, claude-code, codex, chatgpt or goose; else the content tells.",
        ),
    ] = None,
    keep_id: Annotated[
        bool, typer.Option("--keep-id", help="Under the id that the document names.")
    ] = False,
    conversation: Annotated[
        int | None, typer.Option(min=1, help="Which of a document with several.", metavar="N")
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Make sessions of documents: Bamboo's, Claude Code's, Codex's, ChatGPT's and goose's."""
    from app.cli.client import GatewayClient, RefusedError

    params = {
        "id": "keep" if keep_id else "new",
        "format": form,
        "conversation": conversation,
    }
    failed = 0
    with GatewayClient(url, api_key) as client, progress("imported", len(files)) as advance:
        for file in files:
            try:
                made = client.call("POST", "/import", params=params, content=_read(file))
            except RefusedError as error:
                failed += 1
                notice(f"{file}: {one_line(error.line)}")
                advance(1)
                continue
            for note in made["notes"]:
                notice(f"{file}, {one_line(note['place'])}: {one_line(note['what'])}")
            if json:
                print_json(made)
            else:
                print_line(f"{made['id']}  {made['message_count']} messages")
            advance(1)
    if failed:
        raise CommandError(f"{failed} of {len(files)} were not imported.")


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", ExitCode.USAGE) from error


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Gives what to write to; a file is there whole or not at all."""
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

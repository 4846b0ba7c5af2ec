"""`bamboo files`: upload, list, download and delete the files that messages name."""

import mimetypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

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

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient

commands = typer.Typer(no_args_is_help=True, help="Files that messages name.")

_PIECE_BYTES: Final = 256 * 1024
FileId = Annotated[str, typer.Argument(help="The id of a file.", metavar="FILE_ID")]


@commands.command()
def upload(
    paths: Annotated[list[Path], typer.Argument(help="The files.", metavar="PATH…")],
    media_type: Annotated[
        str | None,
        typer.Option("--type", help="The media type; default: by the name.", metavar="TYPE"),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Upload files, and print the id of each."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        for path in paths:
            file = upload_file(client, path, media_type)
            if json:
                print_json(file)
            else:
                print_line(_in_words(file))


@commands.command("list")
def list_files(
    json: JsonOption = False, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None
) -> None:
    """List the files of the key's user, the oldest first."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        cursor = None
        while True:
            page = client.call("GET", "/files", params={"limit": 1000, "cursor": cursor})
            for file in page["files"]:
                if json:
                    print_json(file)
                else:
                    print_line(_in_words(file))
            if not page["has_more"]:
                return
            cursor = page["next_cursor"]


@commands.command()
def get(
    file_id: FileId,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A file; default: stdout.", metavar="FILE"),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Download a file. An existing file at FILE is replaced when the download is complete."""
    from bamboo_gateway.cli.client import GatewayClient

    if output is None and sys.stdout.isatty():
        raise CommandError(
            "A file is not printed on a terminal: name one with --output.", ExitCode.USAGE
        )
    with (
        GatewayClient(url, api_key) as client,
        client.download("GET", f"/files/{_checked(file_id)}") as chunks,
    ):
        if output is None:
            for chunk in chunks:
                sys.stdout.buffer.write(chunk)
            return
        aside = output.with_name(f".{output.name}.part")
        try:
            with aside.open("wb") as opened:
                for chunk in chunks:
                    opened.write(chunk)
            aside.replace(output)
        except OSError as error:
            raise CommandError(f"{output}: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)
    notice(f"wrote {output}")


@commands.command()
def delete(file_id: FileId, url: UrlOption = DEFAULT_URL, api_key: ApiKeyOption = None) -> None:
    """Delete a file that no session names."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        client.call("DELETE", f"/files/{_checked(file_id)}")
    notice(f"deleted {file_id}")


def upload_file(
    client: "GatewayClient", path: Path, media_type: str | None = None
) -> dict[str, Any]:
    """Upload a file, with a progress bar if stderr is a terminal, and return its File.

    Raises:
        CommandError: The file cannot be read, or the gateway refused it.
    """
    kind = media_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    try:
        with path.open("rb") as opened, _progress(path.name, path.stat().st_size) as advance:

            def pieces() -> Iterator[bytes]:
                while piece := opened.read(_PIECE_BYTES):
                    yield piece
                    advance(len(piece))

            return client.upload(
                "/files", pieces(), params={"name": path.name}, headers={"Content-Type": kind}
            )
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = (
        # A name is no format: it may have braces.
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(escape(one_line(name)), total=total)
        yield lambda size: bar.advance(task, size)


def _checked(file_id: str) -> str:
    from bamboo_gateway.domain.ids import is_id

    if not is_id(file_id):
        raise CommandError(f"{one_line(file_id)} is no id of a file.", ExitCode.USAGE)
    return file_id


def _in_words(file: dict[str, Any]) -> str:
    return f"{file['file_id']}  {file['bytes']:>12}  {file['media_type']}  {one_line(file['name'])}"

"""`bamboo openapi`: the OpenAPI document, generated from the code."""

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError


def openapi(
    output: Annotated[
        Path | None,
        typer.Option(help="Write to this file, whole or not at all.", metavar="FILE"),
    ] = None,
) -> None:
    """Print the gateway's OpenAPI document; no gateway has to run."""
    from bamboo_gateway.main import openapi_document

    document = openapi_document()
    if output is None:
        sys.stdout.buffer.write(document)
        return
    try:
        write_atomically(output, document)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file, so that a reader sees either the old content or the new one.

    Raises:
        OSError: The file cannot be written; the old one is unchanged.
    """
    # In the same directory: a rename is atomic only within one file system.
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as aside:
        try:
            aside.write(content)
            aside.flush()
            # mkstemp makes files private, but others may read this document.
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(aside.fileno(), 0o666 & ~mask)
            Path(aside.name).replace(path)
        except BaseException:
            Path(aside.name).unlink()
            raise

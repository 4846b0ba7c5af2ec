"""Options that several commands share."""

from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.ids import check_id

DEFAULT_URL = "http://127.0.0.1:8080"

UrlOption = Annotated[
    str, typer.Option("--url", envvar="BAMBOO_URL", help="Where the gateway is.", metavar="URL")
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="BAMBOO_API_KEY",
        help="Bearer key, where the gateway asks for one.",
        show_envvar=True,
        metavar="KEY",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def session_id(text: str) -> str:
    """Gives a session id as typed, before it is put into a URL.

    Raises:
        CommandError: It is none.
    """
    try:
        return check_id(text)
    except InvalidId as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error

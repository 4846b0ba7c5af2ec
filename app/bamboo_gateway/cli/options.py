"""Options that several commands share."""

import os
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode
from bamboo_gateway.domain.errors import InvalidId
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.suggestions import nearest_name

DEFAULT_URL = "http://127.0.0.1:8080"

WHICH_SESSION = "The session's id, or the beginning of it."
WHICH_SESSIONS = "The sessions' ids, or the beginnings of them."

_PREFIX = "BAMBOO_"
# Names this similar are taken for a typing error: `ULR` and `URL` share two thirds. `MY_KEY` and
# `API_KEY` share less: `BAMBOO_MY_KEY` may be the variable of an agent.
_MISSPELT_RATIO = 0.65


def _check_variables(url: str) -> str:
    """Refuse a misspelt variable: without it the command would call another gateway.

    Raises:
        CommandError: With the variable's name, never with its value.
    """
    ours = {"URL", "API_KEY"}
    for name in os.environ:
        rest = name[len(_PREFIX) :]
        if not name.upper().startswith(_PREFIX) or (name.startswith(_PREFIX) and rest in ours):
            continue
        nearest = nearest_name(rest, ours, ratio=_MISSPELT_RATIO)
        if nearest is not None and not _is_setting(name):
            raise CommandError(
                f"{name}: there is no such variable; did you mean {_PREFIX}{nearest}?",
                ExitCode.USAGE,
            )
    return url


def _is_setting(name: str) -> bool:
    # Imported only for such a name: the import takes longer than the rest of a command's start.
    from bamboo_gateway.settings import is_known_variable

    return is_known_variable(name)


UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="BAMBOO_URL",
        help="The URL of the gateway.",
        metavar="URL",
        callback=_check_variables,
    ),
]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="BAMBOO_API_KEY",
        help="The API key, if the gateway requires one.",
        show_envvar=True,
        metavar="KEY",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


def session_id(text: str, what: str = "session id") -> str:
    """Return `text` when it can be an id, so that it may be put into a URL.

    Raises:
        CommandError: `text` cannot be an id.
    """
    try:
        return check_id(text, what)
    except InvalidId as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error

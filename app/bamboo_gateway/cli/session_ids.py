"""Complete session ids of which people typed only the beginning."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bamboo_gateway.cli.options import session_id
from bamboo_gateway.cli.output import CommandError, ExitCode

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient

# As many as one line holds; more would help nobody to choose.
_CANDIDATES_MAX = 5
# `s-` and the 26 characters of `IdMaker`, or `s-k` and those of `derived_session_id`.
_GENERATED_START = re.compile(r"s-[0-9a-hjkmnp-tv-z]{4,}")
_GENERATED = re.compile(r"s-k?[0-9a-hjkmnp-tv-z]{26}")


class AmbiguousIdError(CommandError):
    """Several sessions have ids that begin with what was typed.

    Args:
        text: What was typed.
        found: Ids that begin with it.
    """

    def __init__(self, text: str, found: Sequence[str]) -> None:
        names = ", ".join(found[:_CANDIDATES_MAX])
        more = " and more" if len(found) > _CANDIDATES_MAX else ""
        super().__init__(
            f"Several sessions begin with {text}: {names}{more}. Write more of the id.",
            ExitCode.USAGE,
        )


def is_generated(text: str) -> bool:
    """Return whether the gateway made this id. People and programs choose shorter names."""
    return _GENERATED.fullmatch(text) is not None


def whole_id(client: "GatewayClient", text: str) -> str:
    """Return `text` when it is the id of a session, else the only id that begins with it.

    So an id that exists is never completed to a longer one.

    Args:
        client: The gateway to ask.
        text: What was typed.

    Returns:
        The whole id. `text` itself when no id begins with it: the command's own request then fails
        with the gateway's error.

    Raises:
        CommandError: `text` cannot be an id.
        AmbiguousIdError: Several ids begin with it.
        UnreachableError: No gateway answered.
    """
    session_id(text)
    if is_generated(text) or _is_there(client, text):
        return text
    found = _candidates(client, text)
    if len(found) > 1:
        raise AmbiguousIdError(text, found)
    return found[0] if found else text


def session_to_chat_in(client: "GatewayClient", text: str) -> str:
    """Return the id of the session to continue or to begin; complete only generated ids.

    A name that somebody chose is used as it is: a chat in `job-1` begins that session and must
    never end up in `job-10`.

    Raises:
        CommandError, UnreachableError: As `whole_id`.
    """
    return whole_id(client, text) if _GENERATED_START.fullmatch(text) else session_id(text)


def ids_to_delete(client: "GatewayClient", texts: Sequence[str], *, asking: bool) -> list[str]:
    """Return the whole ids of the sessions to delete.

    Where the command does not ask, a name that somebody chose has to be whole: a script that
    deletes `job-1` a second time must not delete `job-10`.

    Raises:
        CommandError: A text cannot be an id, or has to be whole and is not.
        AmbiguousIdError: Several ids begin with one of them.
        UnreachableError: No gateway answered.
    """
    found = []
    for text in texts:
        whole = whole_id(client, text)
        if whole != text and not asking and not is_generated(whole):
            raise CommandError(
                f"There is no session {text}. With --yes, write the whole id: {whole}",
                ExitCode.USAGE,
            )
        found.append(whole)
    return found


def _is_there(client: "GatewayClient", text: str) -> bool:
    from bamboo_gateway.cli.client import RefusedError, UnreachableError

    try:
        client.call("GET", f"/sessions/{text}")
    except UnreachableError:
        raise
    except RefusedError as refusal:
        # An expired session exists. If it may not be read, the command's own request fails.
        return refusal.code != "session-not-found"
    except CommandError:
        # This is no gateway; the command's own request fails with a better message.
        return True
    return True


def _candidates(client: "GatewayClient", prefix: str) -> list[str]:
    """Return ids that begin with `prefix`: at most one more than an error lists."""
    params = {"id_prefix": prefix, "limit": _CANDIDATES_MAX + 1, "count": "false"}
    pages = (
        client.call("GET", "/sessions", params=params)["sessions"],
        client.call("GET", "/sessions", params={**params, "shared": "true"})["sessions"],
        [one["session"] for one in client.call("GET", "/archive", params=params)["archives"]],
    )
    return sorted({session["id"] for page in pages for session in page})[: _CANDIDATES_MAX + 1]

"""Credentials in the query, `?ticket=` and `?share=`: moved out before anything can log them."""

from typing import Final
from urllib.parse import unquote_plus

from starlette.types import Scope

from bamboo_gateway.domain.callers import Caller

TICKET: Final = "bamboo.ticket"
"""The scope's key of the ticket that the query had."""

SHARE: Final = "bamboo.share"
"""The scope's key of the share link's token that the query had."""

_PLACES: Final = {"ticket": TICKET, "share": SHARE}


def take_credentials(scope: Scope) -> None:
    """Move tickets and share tokens from the query into the scope.

    One that is given twice becomes an empty, invalid one.
    """
    query: bytes = scope["query_string"]
    if b"ticket" not in query and b"share" not in query and b"%" not in query:
        return
    kept: list[bytes] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        place = _PLACES.get(unquote_plus(name.decode("latin-1")))
        if place is None:
            kept.append(part)
        else:
            scope[place] = "" if place in scope else unquote_plus(value.decode("latin-1"))
    scope["query_string"] = b"&".join(kept)


def with_url_credential(scope: Scope, caller: Caller, url: str) -> str:
    """Return a URL with the request's ticket or share token, if that is its credential.

    A caller that has no other credential could not open the URL without it.

    Args:
        scope: The request's scope.
        caller: The request's caller.
        url: A URL with a query, for the answer.
    """
    if caller.session_id is None:
        return url
    name = "ticket" if caller.share_id is None else "share"
    return f"{url}&{name}={scope[_PLACES[name]]}"

"""`?ticket=`, `?share=`: taken out of the request before anything sees it that could tell them."""

from typing import Final
from urllib.parse import unquote_plus

from starlette.types import Scope

from bamboo_gateway.domain.callers import Caller

TICKET: Final = "bamboo.ticket"
"""Where the scope keeps the ticket that came in the query."""

SHARE: Final = "bamboo.share"
"""Where the scope keeps the token of a link that came in the query."""

_PLACES: Final = {"ticket": TICKET, "share": SHARE}


def take_credentials(scope: Scope) -> None:
    """Moves tickets and tokens from the query into the scope.

    One given twice is none that could be good.
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


def opening(scope: Scope, caller: Caller, url: str) -> str:
    """Gives a URL with the ticket or token that the request came with, if it came with one.

    Who has nothing but that could not follow the URL without it.

    Args:
        scope: The request's.
        caller: Who came.
        url: What he is given, with a query.
    """
    if caller.session_id is None:
        return url
    name = "ticket" if caller.share_id is None else "share"
    return f"{url}&{name}={scope[_PLACES[name]]}"

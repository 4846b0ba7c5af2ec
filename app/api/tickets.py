"""`?ticket=`: taken out of the request before anything sees it that logs, counts or answers."""

from typing import Final
from urllib.parse import unquote_plus

from starlette.types import Scope

TICKET: Final = "bamboo.ticket"
"""Where the scope keeps the ticket that came in the query."""

_NAME: Final = "ticket"


def take_ticket(scope: Scope) -> None:
    """Moves a ticket from the query into the scope. One given twice is none that could be good."""
    query: bytes = scope["query_string"]
    if b"ticket" not in query and b"%" not in query:
        return
    kept, tickets = [], []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == _NAME:
            tickets.append(unquote_plus(value.decode("latin-1")))
        else:
            kept.append(part)
    if tickets:
        scope["query_string"] = b"&".join(kept)
        scope[TICKET] = tickets[0] if len(tickets) == 1 else ""

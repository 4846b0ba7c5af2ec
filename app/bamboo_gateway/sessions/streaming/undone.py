"""Undone events: what a commit would have stored that another process was faster than."""

from collections.abc import Sequence

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.storage.commits import Event

_PLACE = ("type", "seq", "time")
"""What an event has of its place in the log: it gets them anew when it is decided again."""


def undone_drafts(events: Sequence[Event], answered: Sequence[tuple[int, int]]) -> list[Draft]:
    """Return the drafts of events that were not stored, in their order.

    Args:
        events: The events.
        answered: The first and last seq of decisions that are left out: a call waits for each of
            them, and makes it again itself.
    """
    drafts: list[Draft] = []
    for seq, kind, body in events:
        if not any(first <= seq <= last for first, last in answered):
            fields = decode(body)
            for name in _PLACE:
                del fields[name]
            drafts.append(Draft(kind, fields))
    return drafts

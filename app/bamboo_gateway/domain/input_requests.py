"""Requests for input: what an agent asks people, and how the requests of a run end.

The requests of one run are a *round*. Each `input_required` of a round is followed by one
`input_given` or one `input_closed` with its reason:

* `superseded`: the conversation went on without an answer;
* `cancelled`: the run was cancelled, or failed, or somebody cancelled the session;
* `expired`: its time has passed.

When the last one is answered or has expired, the next run begins in the same commit and gets them
all. When one is superseded or cancelled, all are, and no run gets the answers that were given
before. The calls that requests name stay open during the round, and only they.
"""

from collections.abc import Callable
from typing import Final, Literal

from bamboo_gateway.domain.errors import Refused
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.message_assembler import message_draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SessionHead

CloseReason = Literal["superseded", "cancelled", "expired"]
EndReason = Literal["superseded", "cancelled"]

WORDS_OF_END: Final[dict[EndReason, str]] = {
    "superseded": "Not called: the conversation went on without the answer that this call needs.",
    "cancelled": "Not called: the request for the answer that this call needs was cancelled.",
}
"""What the model is told in the place of a call's result when a round has ended."""


def calls_of_round(head: SessionHead) -> list[str]:
    """Return the open calls that requests of the present round name, also settled ones."""
    named = {one.tool_call_id for one in head.open_requests}
    named |= {one.tool_call_id for one in head.settled_requests}
    return [call_id for call_id in head.open_calls if call_id in named]


def calls_of_others(head: SessionHead) -> list[str]:
    """Return the open calls that no request waits for: tools that the client runs."""
    asked = calls_of_round(head) if head.open_requests else []
    return [call_id for call_id in head.open_calls if call_id not in asked]


def end_round(
    head: SessionHead, reason: EndReason, result_of: Callable[[str, str], Message]
) -> list[Draft]:
    """Return the events that close the open requests and their calls; none when none is open.

    They belong in one commit, before whatever the conversation goes on with.

    Args:
        head: The head that the decision is made on; no run is active.
        reason: Why nobody answers any more.
        result_of: Makes the tool message for a call's id, with these words as its content
            (`Maker.closed`).
    """
    if not head.open_requests:
        return []
    words = WORDS_OF_END[reason]
    return [
        *(close_draft(one.request_id, reason) for one in head.open_requests),
        *(message_draft(result_of(call_id, words)) for call_id in calls_of_round(head)),
    ]


def check_not_asked(head: SessionHead) -> None:
    """Refuse what would come between a request for input and its answer.

    Raises:
        Refused: `input-required`: a request is open.
    """
    if head.open_requests:
        names = [one.request_id for one in head.open_requests]
        raise Refused(
            "The session waits for an answer. Answer it, cancel it, or chat instead.",
            code="input-required",
            extra={"request_ids": names},
        )


def close_draft(request_id: str, reason: CloseReason) -> Draft:
    """Return the event that closes a request without an answer."""
    return Draft("input_closed", {"request_id": request_id, "reason": reason})

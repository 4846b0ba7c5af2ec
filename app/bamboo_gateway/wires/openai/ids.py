"""Ids of the protocol. Each one holds the gateway's own ids, so nothing has to be kept.

| id | is made of |
|---|---|
| `conv_…` | the session's id behind `conv_` |
| `resp_…` | the session's id and the run's, as Base64 for URLs |
| `msg_…` | the message's id; text behind reasoning has `~` and its place in the message |
| `rs_…~0` | reasoning: the message's id, `~`, and its place in the message |
| `fc_…~0`, `mcp_…~0` | a tool call: the message's id, `~`, and its place among the calls |
| `mcpr_…`, `mcpa_…` | an approval, and its answer: the id of the request for input behind it |
"""

import base64
import binascii
from typing import Final

from bamboo_gateway.domain.ids import is_id

RESPONSE: Final = "resp_"
CONVERSATION: Final = "conv_"
APPROVAL: Final = "mcpr_"
ANSWER: Final = "mcpa_"
_PLACED: Final = ("rs_", "fc_", "mcp_")
_SEPARATOR: Final = "~"
"""No id of the gateway has it."""

ID_CHARS_MAX: Final = 400
"""The longest id: two ids of 128 characters as Base64, with a prefix."""


def response_id(session_id: str, run_id: str) -> str:
    """Return the id of a run's response."""
    both = f"{session_id}{_SEPARATOR}{run_id}".encode("ascii")
    return RESPONSE + base64.urlsafe_b64encode(both).rstrip(b"=").decode("ascii")


def run_of(given: str) -> tuple[str, str] | None:
    """Return the session and the run of a response; None for what is no id of one."""
    if not given.startswith(RESPONSE) or len(given) > ID_CHARS_MAX:
        return None
    coded = given.removeprefix(RESPONSE)
    try:
        both = base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        return None
    session_id, separator, run_id = both.partition(_SEPARATOR)
    if not separator or not is_id(session_id) or not is_id(run_id):
        return None
    # One spelling alone: Base64 has several for the same bytes.
    return (session_id, run_id) if response_id(session_id, run_id) == given else None


def conversation_id(session_id: str) -> str:
    """Return the id of a session's conversation."""
    return CONVERSATION + session_id


def session_of(given: str) -> str | None:
    """Return the session of a conversation; None for what is no id of one."""
    session_id = given.removeprefix(CONVERSATION)
    return session_id if given.startswith(CONVERSATION) and is_id(session_id) else None


def text_id(message_id: str, place: int) -> str:
    """Return the id of a message's text at this place among its parts."""
    return f"{message_id}{_SEPARATOR}{place}" if place else message_id


def reasoning_id(message_id: str, place: int) -> str:
    """Return the id of a message's reasoning at this place among its parts."""
    return f"rs_{message_id}{_SEPARATOR}{place}"


def call_id(message_id: str, place: int, *, is_client: bool) -> str:
    """Return the id of a message's tool call at this place among its calls."""
    return f"{'fc' if is_client else 'mcp'}_{message_id}{_SEPARATOR}{place}"


def message_of(item_id: str) -> str | None:
    """Return the message that an item is of; None for what is no id of an item."""
    message_id, separator, _ = item_id.partition(_SEPARATOR)
    if separator:
        prefix = next((one for one in _PLACED if message_id.startswith(one)), "")
        message_id = message_id.removeprefix(prefix)
    return message_id if is_id(message_id) else None


def request_of(item_id: str) -> str | None:
    """Return the request that an approval or its answer is of; None for other items."""
    for prefix in (APPROVAL, ANSWER):
        if item_id.startswith(prefix):
            return item_id.removeprefix(prefix)
    return None

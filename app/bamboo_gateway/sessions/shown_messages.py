"""What readers see of stored messages: with their place in the tree.

A message event has `parent_id` and `branch_id` in its message, so most messages are cut out of the
stored bytes as they are. Messages of earlier versions lack both: they are on the first branch, and
their parent is the message before them. At a branching point a message gets its `siblings`; they
are never stored, since later branches add to them.
"""

import re
from collections.abc import Sequence

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.domain.paths import every_path
from bamboo_gateway.domain.sessions import MAIN_BRANCH, SessionHead
from bamboo_gateway.sessions.history import last_on_path
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.commits import Record

_MESSAGE_MEMBER = b'"message":{'
_STRING = rb'"(?:[^"\\]|\\.)*"'
_ID = re.compile(rb'\{"id":(%b),' % _STRING)
_PLACE = re.compile(
    rb'\{"id":(%b),"parent_id":(null|%b),"branch_id":%b,' % (_STRING, _STRING, _STRING)
)
_MAIN = encode(MAIN_BRANCH)


def message_of(body: bytes) -> bytes:
    """Cut the message out of its event: `message` is the event's last member."""
    return body[body.index(_MESSAGE_MEMBER) + len(_MESSAGE_MEMBER) - 1 : -1]


async def shown_messages(
    store: SessionStore,
    head: SessionHead,
    records: Sequence[Record],
    *,
    descending: bool = False,
) -> list[bytes]:
    """Return the messages of some records, which follow one another on a path."""
    messages = [message_of(record.body) for record in records]
    places = [_PLACE.match(message) for message in messages]
    if all(places) and not head.branch_points:
        return messages
    first = -1 if descending else 0
    before = b"null"
    if places and places[first] is None:
        # All messages without a place are on the first branch, in the order of the log.
        earlier = await last_on_path(store, head, every_path(head), records[first].seq)
        before = _id_of(message_of(earlier.body)) if earlier is not None else before
    points = {
        (encode(name) if name else b"null"): following
        for name, following in head.branch_points.items()
        if len(following) > 1
    }
    step = -1 if descending else 1
    shown: list[bytes] = []
    for message, place in list(zip(messages, places, strict=True))[::step]:
        shown.append(_shown(message, place, before, points))
        before = _id_of(message)
    return shown[::step]


def _shown(
    message: bytes, place: re.Match[bytes] | None, before: bytes, points: dict[bytes, list[str]]
) -> bytes:
    parent = before if place is None else place[2]
    head, rest = b"", message
    if place is None:
        identity = _id_of(message)
        if _ID.match(message) is None:
            shape = decode(message)
            message = encode({"id": shape["id"], **shape})
        head = b'{"id":%b,"parent_id":%b,"branch_id":%b,' % (identity, parent, _MAIN)
        rest = message[len(identity) + 7 :]
        rest = rest.removeprefix(b'"branch_id":%b,' % _MAIN)
    siblings = points.get(parent)
    if siblings is None:
        return head + rest
    if place is not None:
        head, rest = place[0], message[place.end() :]
    return b'%b"siblings":%b,%b' % (head, encode(siblings), rest)


def _id_of(message: bytes) -> bytes:
    """Return the id of a message as JSON."""
    found = _ID.match(message)
    return found[1] if found is not None else encode(decode(message)["id"])

"""Marks: the keys by which a store finds events and notes without reading the log.

A store makes marks of the entries that it commits, or of the lines that it has stored; both give
the same marks.
"""

import re
from typing import Final, NamedTuple

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import INPUT_TYPES, TERMINAL_TYPES
from bamboo_gateway.storage.commits import MarkKind

_RUN_TYPES = TERMINAL_TYPES | {"run_start", "run_queued"}
MARKED_TYPES: Final = _RUN_TYPES | INPUT_TYPES | {"message"}
"""The event types that have a mark."""

NOTE_BODY: Final = b'{"note":'
"""The first bytes of every note's body; no event's body begins with them."""

_MARKED_BODIES = tuple(
    b'{"type":"%b"' % name.encode()
    for name in ("message", *sorted(_RUN_TYPES), *sorted(INPUT_TYPES))
)
MARKED_STARTS: Final = tuple(body[1:] for body in (NOTE_BODY, *_MARKED_BODIES))
"""The first bytes, after the brace, of the bodies of notes and of marked events."""

# A note may have many MB: it holds the stored answer for its key.
_NOTE_START = re.compile(rb'\{"note":"[^"\\]*","key":"([^"\\]*)"')
# The members before the message in its event. Ids with escapes are left to the decoder.
_MESSAGE_START = re.compile(
    rb'\{"type":"message","seq":([0-9]+),"time":"[^"\\]*",'
    rb'(?:"run_id":"[^"\\]*",)?"message_id":"([^"\\]*)","message":\{'
)
# The event of a queued run holds the run's whole input.
_RUN_START = re.compile(
    rb'\{"type":"(?:%b)","seq":([0-9]+),"time":"[^"\\]*","run_id":"([^"\\]*)"[,}]'
    % "|".join(sorted(_RUN_TYPES)).encode()
)


class Mark(NamedTuple):
    """The mark of one event or note of a log.

    The key of a `message` event is its message id. The key of `run_queued`, `run_start` and
    terminal events (kind `run`) is the run id, that of requests for input, their answers and ends
    (kind `input`) the id of the request. A note is marked with its own key, and with the seq
    of the event before it.
    """

    kind: MarkKind
    key: str
    seq: int


def mark_of(body: bytes, seq_before: int) -> Mark | None:
    """Return the mark of a body, or None; `seq_before` is the seq of the event before a note."""
    if body.startswith(NOTE_BODY):
        begins = _NOTE_START.match(body)
        key = begins[1].decode() if begins else codec.decode(body)["key"]
        return Mark("note", key, seq_before)
    if not body.startswith(_MARKED_BODIES):
        return None
    # A message may have many MB, and decoding it would take several times as much memory.
    if begins := _MESSAGE_START.match(body):
        return Mark("message", begins[2].decode(), int(begins[1]))
    if begins := _RUN_START.match(body):
        return Mark("run", begins[2].decode(), int(begins[1]))
    event = codec.decode(body)
    if event["type"] == "message":
        return Mark("message", event["message"]["id"], event["seq"])
    if event["type"] in INPUT_TYPES:
        return Mark("input", event["request_id"], event["seq"])
    run_id = event.get("run_id")
    return Mark("run", run_id, event["seq"]) if isinstance(run_id, str) else None

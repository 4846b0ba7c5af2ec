"""What stores need to know of a stored line without folding it: its mark, whether it is a delta.

Lines begin the same way each time (crc, type, seq), so most questions are answered by their first
bytes.
"""

import re

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import DELTA_TYPES, TERMINAL_TYPES
from bamboo_gateway.storage.base import Mark

NOTE_BODY = b'{"note":'
_RUN_TYPES = TERMINAL_TYPES | {"run_start", "run_queued"}
_MARKED_BODIES = tuple(b'{"type":"%b"' % name.encode() for name in ("message", *sorted(_RUN_TYPES)))
_MARKED_STARTS = tuple(body[1:] for body in (NOTE_BODY, *_MARKED_BODIES))
# A note may have many MB as well: the answer that is kept for its key.
_NOTE_START = re.compile(rb'\{"note":"[^"\\]*","key":"([^"\\]*)"')
# What precedes the message in its event; ids with escapes are left to the decoder.
_MESSAGE_START = re.compile(
    rb'\{"type":"message","seq":([0-9]+),"time":"[^"\\]*",'
    rb'(?:"run_id":"[^"\\]*",)?"message_id":"([^"\\]*)","message":\{'
)
_DELTA_STARTS = tuple(b'"type":"%b"' % name.encode() for name in sorted(DELTA_TYPES))


def mark_of(body: bytes, seq_before: int) -> Mark | None:
    """Gives the mark that a stored body has, or None; its offset is left at 0."""
    if body.startswith(NOTE_BODY):
        begins = _NOTE_START.match(body)
        key = begins[1].decode() if begins else codec.decode(body)["key"]
        return Mark("note", key, seq_before, 0)
    if not body.startswith(_MARKED_BODIES):
        return None
    # A message may have many MB: decoded it would take a multiple of that.
    if begins := _MESSAGE_START.match(body):
        return Mark("message", begins[2].decode(), int(begins[1]), 0)
    event = codec.decode(body)
    if event["type"] == "message":
        return Mark("message", event["message"]["id"], event["seq"], 0)
    run_id = event.get("run_id")
    return Mark("run", run_id, event["seq"], 0) if isinstance(run_id, str) else None


def mark_of_line(line: bytes, seq_before: int) -> Mark | None:
    """Gives the mark of a stored line; as `mark_of`, and most lines cost a look at their start."""
    if line.startswith(_MARKED_STARTS, codec.LINE_PREFIX_BYTES):
        return mark_of(codec.body_of(line), seq_before)
    return None


def is_delta(line: bytes) -> bool:
    """Tells the line of a provisional event: one that a later message stands for."""
    return line.startswith(_DELTA_STARTS, codec.LINE_PREFIX_BYTES)


def delta_bytes(data: bytes) -> int:
    """Adds up the delta lines in whole stored lines."""
    return sum(len(line) for line in data.splitlines(keepends=True) if is_delta(line))

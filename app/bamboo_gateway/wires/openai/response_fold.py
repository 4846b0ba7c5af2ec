"""The fold from the events of a run to the frames of its response.

What a reader has is not sent again, but it is read again: where an item is in the output depends on
all that came before.
"""

from dataclasses import replace
from typing import Final
from zlib import crc32

from typing_extensions import override

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.wires.folded_streams import (
    GOODBYE_LINE,
    PING_LINE,
    RESET_LINE,
    Fold,
    Folded,
)
from bamboo_gateway.wires.openai.item_frames import error_frame
from bamboo_gateway.wires.openai.response_events import ResponseEvents
from bamboo_gateway.wires.openai.response_state import Place

_PING: Final = b": ping\n"


class ResponseFold(Fold[Place]):
    """The fold of one run.

    Args:
        first: The seq just before its first event.
        record: The run. What it says as long as it has not ended is the same at any time.
    """

    def __init__(self, first: int, record: RunRecord) -> None:
        self.first = first
        self.record = replace(record, output=[])  # which may be large

    @override
    def feed(self, state: Place, lines: bytes) -> Folded[Place]:
        run, number, texts = state.run, state.number, state.texts
        if lines[:1] != b"{":
            return Folded(self._control(state, lines), state)
        if run.has_ended:
            return Folded(b"", state)
        out: list[bytes] = []
        at = 0
        if run.hot is not None:
            at, texts, number = run.hot.take(lines, at, texts, number, run.after, out)
        if at < len(lines):
            work = ResponseEvents(self.record, self.first, run, number, texts, out)
            at = work.take(lines, at)
            run, number, texts = work.run(), work.number, work.texts
        size, digest = state.size + at, crc32(lines[:at], state.digest)
        return Folded(b"".join(out), Place(run, number, texts, size, digest))

    @override
    def waits(self, state: Place) -> bool:
        return bool(state.run.rest)

    def ended(self, state: Place, record: RunRecord) -> Folded[Place]:
        """Make the last frames of a state that waits: the response is in them.

        Args:
            state: The state.
            record: The run, which has ended.
        """
        out: list[bytes] = []
        work = ResponseEvents(self.record, self.first, state.run, state.number, state.texts, out)
        work.end(decode(state.run.rest)["seq"], record)
        run = work.run()._replace(rest=b"", has_ended=True)
        return Folded(b"".join(out), Place(run, work.number, None, state.size, state.digest))

    @override
    def end(self, state: Place) -> bytes:
        return b""

    def _control(self, state: Place, line: bytes) -> bytes:
        if line[:1] == PING_LINE:
            return _PING
        if line[:1] not in (GOODBYE_LINE, RESET_LINE) or state.run.has_ended:
            return b""
        reason = line[1:-1].decode("ascii") or "deleted"
        words = f"The stream ended before the response ({reason}). Go on with `starting_after`."
        return error_frame(max(state.number, state.run.after, 0), "stream_ended", words)

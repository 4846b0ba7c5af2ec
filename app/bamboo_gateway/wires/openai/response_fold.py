"""The fold from the events of a run to the frames of its response.

What a reader has is not sent again, but it is read again: where an item is in the output depends on
all that came before.
"""

from dataclasses import replace
from typing import Final

from typing_extensions import override

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
from bamboo_gateway.wires.openai.response_state import ResponsePlace

_PING: Final = b": ping\n"


class ResponseFold(Fold[ResponsePlace]):
    """The fold of one run.

    Args:
        first: The seq just before its first event.
        record: The run. What it says as long as it has not ended is the same at any time.
    """

    def __init__(self, first: int, record: RunRecord) -> None:
        self.first = first
        self.record = replace(record, output=[])  # which may be large

    @override
    def feed(self, state: ResponsePlace, lines: bytes) -> Folded[ResponsePlace]:
        if lines[:1] != b"{":
            return Folded(self._control(state, lines), state)
        run, out, at = state.run, list[bytes](), 0
        if run.has_ended:
            return Folded(b"", state)
        if run.hot is not None:
            at, texts, number = run.hot.take(lines, at, state.texts, state.number, state.after, out)
            if at == len(lines):
                return Folded(b"".join(out), state.behind(lines, run, texts, number))
            state = state.behind(lines[:at], run, texts, number)
        place = ResponseEvents(self.record, self.first, state, out).take(lines[at:])
        return Folded(b"".join(out), place)

    @override
    def waits(self, state: ResponsePlace) -> bool:
        return state.run.end_seq is not None

    def ended(self, state: ResponsePlace, record: RunRecord) -> Folded[ResponsePlace]:
        """Make the last frames of a state that waits: the response is in them.

        Args:
            state: The state.
            record: The run, which has ended.
        """
        out: list[bytes] = []
        last = ResponseEvents(self.record, self.first, state, out).end(record)
        return Folded(b"".join(out), last)

    def _control(self, state: ResponsePlace, line: bytes) -> bytes:
        if line[:1] == PING_LINE:
            return _PING
        if line[:1] not in (GOODBYE_LINE, RESET_LINE) or state.run.has_ended:
            return b""
        reason = line[1:-1].decode("ascii") or "deleted"
        words = f"The stream ended before the response ({reason}). Go on with `starting_after`."
        return error_frame(max(state.number, state.after, 0), "stream_ended", words)

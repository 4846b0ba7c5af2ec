"""The fold from the events of a run to the frames of its UI message."""

from typing import Final

from typing_extensions import override

from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.run_frames import RunEvents
from bamboo_gateway.wires.ai_sdk.run_state import Run, RunState
from bamboo_gateway.wires.folded_streams import GOODBYE_LINE, PING_LINE, Fold, Folded
from bamboo_gateway.wires.places import Place

_ENDINGS: Final = frozenset({b"deleted", b"closed"})


class RunFold(Fold[Place[RunState]]):
    """The fold of one run, from its begin on."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @override
    def feed(self, state: Place[RunState], lines: bytes) -> Folded[Place[RunState]]:
        if lines[:1] != b"{":
            return Folded(_control(lines), state)
        run, texts, out, at = state.run, state.texts, list[bytes](), 0
        if run.hot is not None:
            at, texts = run.hot.take(lines, at, texts, out)
        if at < len(lines):
            events = RunEvents(self._run, run, texts)
            events.take(lines, at, out)
            run, texts = events.state(), events.texts
        return Folded(b"".join(out), state.behind(lines, run, texts))


def _control(line: bytes) -> bytes:
    if line[:1] == PING_LINE:
        return b": ping\n"
    is_end = line[:1] == GOODBYE_LINE and line[1:-1] in _ENDINGS
    return parts.ENDED if is_end else parts.LOST

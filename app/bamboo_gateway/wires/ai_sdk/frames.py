"""The renderer of one stream of the protocol, and which of them share the frames of a run."""

from typing import Final, assert_never
from weakref import WeakValueDictionary

from typing_extensions import override

from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Control,
    Goodbye,
    Heartbeat,
    Open,
    Ping,
    Reset,
    RunRenderer,
)
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.run_frames import RunFrames

_ENDINGS: Final = frozenset({"deleted", "closed"})


class SharedFrames:
    """The frames of one run, and the streams that show them: the renderer in the event queue."""

    __slots__ = ("__weakref__", "event", "frames", "is_shared", "readers")

    def __init__(self, frames: RunFrames, *, is_shared: bool) -> None:
        self.frames = frames
        self.event = frames.event
        self.is_shared = is_shared
        self.readers: set[RunReader] = set()

    def control(self, shown: Control, /) -> bytes:
        """Return nothing: each stream shows that itself."""
        del shown
        return b""


RunKey = tuple[object, ...]
"""What the frames of a run depend on: the gateway, session, epoch, run, version, prefix."""

_SHARED: Final[WeakValueDictionary[RunKey, SharedFrames]] = WeakValueDictionary()
"""The frames of active runs that somebody reads. They can be made again from the log."""


def frames_of_run(key: RunKey, frames: RunFrames, *, is_active: bool) -> SharedFrames:
    """Return the frames of a run that others read, or else these.

    The deltas of a run that has ended may leave the log, so its readers do not share frames: what
    one has got from deltas, the next one gets from messages.
    """
    if not is_active:
        return SharedFrames(frames, is_shared=False)
    known = _SHARED.get(key)
    if known is None or known.frames.has_forgotten:
        known = _SHARED[key] = SharedFrames(frames, is_shared=True)
    return known


class RunReader(RunRenderer):
    """The renderer of one stream: what comes first, and then the frames of the run.

    Args:
        run: The frames.
        opening: What the stream begins with: what the UI message has before the run.
    """

    __slots__ = ("_is_lost", "_opening", "_run")

    def __init__(self, run: SharedFrames, opening: bytes) -> None:
        self._run = run
        self._opening = opening
        self._is_lost = False

    @property
    @override
    def shared(self) -> SharedFrames:
        return self._run

    @override
    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        return parts.LOST if self._is_lost else self._run.event(epoch, seq, body)

    @override
    def skipped(self) -> None:
        # Others have got these deltas, so the frames that follow do not repeat their text.
        self._is_lost = self._is_lost or self._run.is_shared

    @override
    def left(self) -> bool:
        self._run.readers.discard(self)
        return not self._run.readers

    @override
    def control(self, shown: Control, /) -> bytes:
        match shown:
            case Open():
                self._run.readers.add(self)
                return self._opening
            case Ping() | Heartbeat():
                return b": ping\n"
            case CaughtUp():
                return b""
            case Reset():
                return parts.LOST
            case Goodbye(reason):
                return parts.ENDED if reason in _ENDINGS else parts.LOST
            case _:
                assert_never(shown)

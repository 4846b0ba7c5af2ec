"""The native frames of joint streams: each has its session in `data`, and as `id` one cursor.

An event is rendered once for each session, without its `id`, and shared by all joint streams of the
session. Only the line of the `id` is each response's own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bamboo_gateway.api.frames import PING, RETRY_MS
from bamboo_gateway.api.joint_cursor import write_epochs, write_seq
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.positions import NOWHERE, Position
from bamboo_gateway.sessions.streaming.rendering import (
    Control,
    Goodbye,
    Open,
    Renderer,
    Reset,
)


@dataclass(frozen=True, slots=True)
class NamedFrames:
    """The renderer of a session's events in joint streams: frames without their `id`.

    Two of one session are equal, so that the event queue shares what they make.
    """

    session_id: str

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the frame of an event of the log, with its session in front of its members."""
        del epoch, seq
        # The body is an object with at least `type`, and ids have no character to escape.
        return b'data: {"session_id":"%b",%b\n\n' % (self.session_id.encode(), body[1:])

    def control(self, shown: Control, /) -> bytes:
        """Return the frame of an item that is not in the log."""
        name = {"session_id": self.session_id}
        match shown:
            case Open():
                return _data(
                    {
                        "type": "open",
                        **name,
                        "connection_id": shown.connection_id,
                        "position": str(shown.position),
                        "active_run_id": shown.active_run_id,
                    }
                )
            case Reset(position, reason):
                return _data({"type": "reset", **name, "reason": reason, "position": str(position)})
            case Goodbye(reason, retry):
                return _data({"type": "goodbye", **name, "reason": reason, "retry": retry})
            case _:
                raise TypeError(f"{shown} belongs to the whole stream")


class JointFrames:
    """The renderer of one joint stream; it keeps the stream's cursor.

    Args:
        session_ids: The sessions, in the order of the request.
    """

    __slots__ = (
        "_around",
        "_around_place",
        "_begin",
        "_epochs",
        "_retry",
        "_seqs",
        "_session_ids",
        "_shared",
    )

    def __init__(self, session_ids: Sequence[str]) -> None:
        self._session_ids = session_ids
        self._shared = [NamedFrames(session_id) for session_id in session_ids]
        self._epochs = [NOWHERE.epoch for _ in session_ids]
        self._seqs = [write_seq(NOWHERE.seq) for _ in session_ids]
        self._begin: bytes | None = None
        # What stands around a session's seq, kept while no other session moves: one of them is
        # often the only busy one.
        self._around = (b"", b"")
        self._around_place = -1
        self._retry = b"retry: %d\n" % RETRY_MS

    def shared(self, place: int, /) -> Renderer:
        """Return the renderer of a session's events, equal in all joint streams of the session."""
        return self._shared[place]

    def move(self, place: int, position: Position, /) -> None:
        """Set the position of a session that the next frames carry."""
        epoch, seq = position
        self._set_epoch(place, epoch)
        self._seqs[place] = write_seq(seq)
        self._around_place = -1

    def events(
        self, place: int, epoch: int, seqs: Iterable[int], rendered: Sequence[bytes], /
    ) -> bytes:
        """Join the frames of a session's events, and move its position behind each of them."""
        self._set_epoch(place, epoch)
        known = self._seqs
        if self._around_place != place:
            # Of the cursor only this session's seq changes from one frame to the next.
            front = b".".join([b"id: " + self._epochs_text(), *known[:place], b""])
            back = b".".join([b"", *known[place + 1 :]]) + b"\n"
            self._around, self._around_place = (front, back), place
        front, back = self._around
        chunk: list[bytes] = []
        text = known[place]
        for seq, frame in zip(seqs, rendered, strict=True):
            text = write_seq(seq)
            chunk += (front, text, back, frame)
        known[place] = text
        return b"".join(chunk)

    def control(self, place: int, shown: Open | Reset | Goodbye, /) -> bytes:
        """Return the frame of an item of one session that is not in the log."""
        if isinstance(shown, Reset):
            self.move(place, shown.position)
        retry, self._retry = self._retry, b""
        return self._id() + retry + self._shared[place].control(shown)

    def heartbeat(self, *, is_event: bool) -> bytes:
        """Return a comment, or the frame of a `heartbeat` event."""
        return self._id() + _data({"type": "heartbeat"}) if is_event else PING

    def _set_epoch(self, place: int, epoch: int) -> None:
        if self._epochs[place] != epoch:
            self._epochs[place] = epoch
            self._begin = None
            self._around_place = -1

    def _id(self) -> bytes:
        return b"id: %b\n" % b".".join([self._epochs_text(), *self._seqs])

    def _epochs_text(self) -> bytes:
        if self._begin is None:
            self._begin = write_epochs(self._session_ids, self._epochs)
        return self._begin


def _data(data: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % encode(data)

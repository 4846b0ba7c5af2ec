"""A client that follows several sessions over one stream."""

from typing import Any, cast

from bamboo_gateway.api.joint_frames import JointFrames
from bamboo_gateway.api.routes.joint_streams import joint_requests
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.sessions.commands import StreamRequest
from bamboo_gateway.sessions.streaming.joint_stream import JointStream
from tests.support.frames import CONTROL_TYPES, Frame
from tests.support.gateways import ME, Gateway, Reader


class JointReader(Reader):
    """A reader of a joint stream."""

    def __init__(self, stream: JointStream) -> None:
        super().__init__(cast(Any, stream))
        self.stream = stream

    def of(self, session_id: str) -> list[dict[str, Any]]:
        """Return the events of one session, as its log has them."""
        return events_of(self.frames, session_id)

    def controls(self, session_id: str) -> list[str]:
        """Return the types of what one session's part showed beside events."""
        return [
            frame.type
            for frame in self.frames
            if frame.type in CONTROL_TYPES and frame.data.get("session_id") == session_id
        ]


def events_of(frames: list[Frame], session_id: str) -> list[dict[str, Any]]:
    """Return the events of one session in a joint stream, as its log has them."""
    return [
        {name: value for name, value in frame.data.items() if name != "session_id"}
        for frame in frames
        if frame.data.get("session_id") == session_id and frame.type not in CONTROL_TYPES
    ]


async def joint(
    gate: Gateway,
    *sessions: str,
    after: str | None = None,
    last_event_id: str | None = None,
    caller: Caller = ME,
    **rest: Any,
) -> JointReader | None:
    """Open a joint stream as the route does; None: there is nothing to wait for."""
    wanted = joint_requests(sessions, after, last_event_id, StreamRequest(**rest))
    frames = JointFrames([name for name, _ in wanted])
    comes_back = after is not None or last_event_id is not None
    stream = await gate.manager.connect_joint(caller, wanted, frames, comes_back=comes_back)
    return JointReader(stream) if stream is not None else None


async def joint_reader(gate: Gateway, *sessions: str, **request: Any) -> JointReader:
    """Open a joint stream that has something to show."""
    reader = await joint(gate, *sessions, **request)
    assert reader is not None
    return reader

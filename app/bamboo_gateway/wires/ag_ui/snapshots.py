"""The earlier messages of a thread, for a client that sees a run from its begin.

A client may have a part of the run already, from a connection that was lost. It would add the
run's pieces to that part. The snapshot before them has only the earlier messages, so the client
drops its part first.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from anyio import to_thread

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode, encode, size_left
from bamboo_gateway.domain.limits import KiB, MiB
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.wires.ag_ui import frames
from bamboo_gateway.wires.ag_ui.messages import client_id, to_ag_ui
from bamboo_gateway.wires.ag_ui.run_state import RunState

T = TypeVar("T")

SNAPSHOT_BYTES_MAX: Final = 8 * MiB
"""The messages of one snapshot, as stored: the official client reads frames up to 10 MB. The oldest
are left out."""

_PAGE: Final = 500

_INLINE_BYTES: Final = 64 * KiB
"""A conversation of this size is converted on the event loop."""


class Conversation(NamedTuple):
    """The messages of the current path, or the latest of them.

    Attributes:
        shapes: The messages, as the gateway has them.
        stream_after: Where a stream has to begin so that nothing is missing behind them.
    """

    shapes: list[dict[str, Any]]
    stream_after: Position


async def read_conversation(manager: SessionManager, who: Caller, thread_id: str) -> Conversation:
    """Read the messages of the current path, from the end."""
    bodies: list[bytes] = []
    size = 0
    before: str | None = None
    stream_after: Position | None = None
    while size <= SNAPSHOT_BYTES_MAX:
        page = await manager.messages(who, thread_id, limit=_PAGE, before=before, descending=True)
        stream_after = stream_after or page.stream_after
        for body in page.messages:
            size += len(body)
            if size > SNAPSHOT_BYTES_MAX:
                break
            bodies.append(body)
        before = page.next_cursor
        if before is None:
            break
    assert stream_after is not None  # a page has been read
    bodies.reverse()
    shapes = await _in_reach(size, lambda: [decode(body) for body in bodies])
    return Conversation(shapes, stream_after)


async def snapshot_of(shapes: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the snapshot with these messages."""
    size = size_left(_INLINE_BYTES, shapes)
    return await _in_reach(
        _INLINE_BYTES if size < 0 else 0, lambda: frames.messages_snapshot(to_ag_ui(shapes))
    )


async def snapshot_around(
    manager: SessionManager, who: Caller, thread_id: str, state: RunState
) -> bytes:
    """Return the snapshot that a run's stream waits for: of what is before it, or with it."""
    conversation = await read_conversation(manager, who, thread_id)
    shapes = conversation.shapes
    ends = [at for at, shape in enumerate(shapes) if _is_of(shape, state)]
    if ends:
        # What follows belongs to later runs, which have streams of their own.
        shapes = shapes[: ends[-1] + 1]
    if state.waits_for == "all":
        return await snapshot_of(shapes)
    return await whole_snapshot([shape for shape in shapes if shape.get("run_id") != state.run_id])


async def whole_snapshot(shapes: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the snapshots after which a client has these messages, in this order, and no others.

    A client keeps the place of messages that it has, and all its reasoning when a snapshot has
    none. So the first snapshot has the first message alone, as reasoning: everything else is
    dropped. The second one replaces it.
    """
    if not shapes:
        return frames.messages_snapshot([])
    first = {"id": client_id(shapes[0]), "role": "reasoning", "content": ""}
    return frames.messages_snapshot([encode(first)]) + await snapshot_of(shapes)


def _is_of(shape: Mapping[str, Any], state: RunState) -> bool:
    return shape.get("run_id") == state.run_id or shape["id"] in state.input_ids


async def _in_reach(size: int, work: Callable[[], T]) -> T:
    """Return what the work returns; do it in a thread when that takes long."""
    return work() if size < _INLINE_BYTES else await to_thread.run_sync(work)

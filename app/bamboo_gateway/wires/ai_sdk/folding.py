"""Folding turns into UI messages, beside the event loop when they are long."""

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from anyio import to_thread

from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages
from bamboo_gateway.wires.ai_sdk.versions import Version

T = TypeVar("T")

_INLINE: Final = 64 * 1024
"""Events of this size are decoded on the event loop; a thread costs more."""


async def beside_loop(events: Sequence[bytes], work: Callable[[], T]) -> T:
    """Return what `work` makes of events; a thread does it when they are long."""
    if sum(map(len, events)) < _INLINE:
        return work()
    return await to_thread.run_sync(work, limiter=bulk_limiter)


def folded(
    events: Sequence[bytes], version: Version, prefix: str = "", upto: Position | None = None
) -> UiMessages:
    """Return the UI messages of events, up to a position."""
    ui = UiMessages(version, prefix)
    decoded = map(decode, events)
    ui.take_all(one for one in decoded if upto is None or one["seq"] <= upto.seq)
    return ui

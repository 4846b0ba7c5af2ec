"""Resuming: the UI message that is being made, from its begin, whatever run makes it now."""

from typing import NamedTuple

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.run_frames import Begin
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages
from bamboo_gateway.wires.ai_sdk.versions import Version


class Resumed(NamedTuple):
    """The run that makes the UI message now.

    Attributes:
        run_id: The run.
        position: The position before its first event.
        begin: What earlier runs have made.
        opening: The frames of that.
    """

    run_id: str
    position: Position
    begin: Begin
    opening: list[bytes]


async def resume(
    manager: SessionManager, caller: Caller, session_id: str, version: Version, prefix: str
) -> Resumed | None:
    """Return what a client of the session resumes; None: no run is active or about to begin.

    Raises:
        NotFound: There is no such session.
    """
    turns = await manager.turns(caller, session_id, limit=1)
    epoch = turns.position.epoch
    if turns.active is not None:
        run_id, before = turns.active.run_id, turns.active.before_seq
    elif turns.queue and not turns.is_waiting:
        run_id, before = turns.queue[0].run_id, turns.position.seq
    else:
        return None
    ui, begins_turn = UiMessages(version, prefix), False
    for body in turns.events:
        event = decode(body)
        if event["seq"] <= before:
            ui.take(event)
        elif event["type"] == "message" and event["message"]["role"] == "user":
            begins_turn = True
    begin, opening = Begin(), list[bytes]()
    if ui.assistant is not None and not begins_turn and turns.active is not None:
        begin = Begin.of(ui)
        opening = list(parts.frames_of(ui.assistant, version))
    return Resumed(run_id, Position(epoch, before), begin, opening)

"""Resuming: the UI message that is being made, from its begin, whatever run makes it now."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.sessions.turns import Turns
from bamboo_gateway.wires.ai_sdk import parts
from bamboo_gateway.wires.ai_sdk.folding import beside_loop, folded
from bamboo_gateway.wires.ai_sdk.run_state import Begin
from bamboo_gateway.wires.ai_sdk.versions import Version

_TURNS: Final = 2
"""How many turns are looked at: the one that is being made, and one that has begun since."""


class Resumed(NamedTuple):
    """The run whose UI message a client resumes.

    Attributes:
        run_id: The run.
        position: The position before its first event.
        begin: What earlier runs have made.
        opening: The frames of that.
    """

    run_id: str
    position: Position
    begin: Begin = Begin()
    opening: tuple[bytes, ...] = ()


async def resume(
    manager: SessionManager,
    caller: Caller,
    session_id: str,
    version: Version,
    prefix: str,
    loaded: Position | None = None,
) -> Resumed | None:
    """Return what a client of the session resumes; None: there is nothing that it lacks.

    Args:
        manager: Has the session.
        caller: Who asks.
        session_id: The session.
        version: The client's version.
        prefix: The path prefix of the request.
        loaded: The position at which the client has loaded the messages. A run that was active then
            is resumed, although it has ended since.

    Raises:
        NotFound: There is no such session.
    """
    turns = await manager.turns(caller, session_id, limit=_TURNS)
    found = _present_run(turns)
    if loaded is not None and (found is None or _is_later_turn(turns, loaded)):
        then = await manager.run_at(caller, session_id, loaded)
        if then is not None:
            found = Resumed(then.run_id, then.position)
    if found is None:
        return None
    work = partial(_with_begin, found, turns, version, prefix)
    return await beside_loop(turns.events, work)


def _present_run(turns: Turns) -> Resumed | None:
    if turns.active is not None:
        before = Position(turns.position.epoch, turns.active.before_seq)
        return Resumed(turns.active.run_id, before)
    if turns.queue and not turns.is_waiting:
        return Resumed(turns.queue[0].run_id, turns.position)
    return None


def _is_later_turn(turns: Turns, loaded: Position) -> bool:
    """Return whether a user has said something since a position."""
    return any(
        event["seq"] > loaded.seq and _is_users(event) for event in map(decode, turns.events)
    )


def _is_users(event: Mapping[str, Any]) -> bool:
    return bool(event["type"] == "message" and event["message"]["role"] == "user")


def _with_begin(found: Resumed, turns: Turns, version: Version, prefix: str) -> Resumed:
    """Add what earlier runs have made of the UI message, unless the run begins it."""
    ui = folded(turns.events, version, prefix, found.position)
    if any(
        event.get("run_id") == found.run_id and _is_users(event)
        for event in map(decode, turns.events)
        if event["seq"] > found.position.seq
    ):
        return found
    if ui.assistant is None:
        return found
    opening = tuple(parts.frames_of(ui.assistant, version))
    return found._replace(begin=Begin.of(ui), opening=opening)

"""The agent of the contract suite: it says what the conversation has in its script.

It runs in the gateway's process. The beginning of the first user message, `[name] `, names the
conversation. What it says next depends on what it is asked (`cue_of`) and on how often it was asked
this before in this session; that is kept in a directory, so a kill of the gateway changes nothing.

A step `{"hold": true}` is no event: the run waits there until the test releases it.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from bamboo_gateway.agents.base import Turn
from bamboo_gateway.domain.messages import Message
from tests.wires.contract.conversations import CONVERSATIONS, Event, is_hold

DIRECTORY_VARIABLE = "CONTRACT_DIRECTORY"
_POLL_SECONDS = 0.005


async def answer(turn: Turn) -> AsyncIterator[Any]:
    """Say the next reply of the conversation's script."""
    directory = Path(os.environ[DIRECTORY_VARIABLE])
    for event in _reply(turn, directory):
        if is_hold(event):
            while not (directory / f"go-{turn.run_id}").exists():  # noqa: ASYNC110
                await anyio.sleep(_POLL_SECONDS)
        else:
            yield event


def cue_of(turn: Turn) -> str:
    """Return what a turn asks: the user's words, results of calls, or answers of people."""
    if turn.answers:
        return "answers"
    last = turn.messages[-1]
    return "results" if last.role == "tool" else text_of(last)


def text_of(message: Message) -> str:
    """Return the text of a message."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part.get("text", "") for part in message.content if part["type"] == "text")


def _reply(turn: Turn, directory: Path) -> tuple[Event, ...]:
    first = next(text_of(one) for one in turn.messages if one.role == "user")
    name = first[1 : first.index("]")]
    cue = cue_of(turn)
    key = hashlib.sha256(f"{turn.session['id']}\0{cue}".encode(errors="surrogatepass"))
    count = directory / f"asked-{key.hexdigest()}"
    asked = len(count.read_text()) if count.exists() else 0
    count.write_text("x" * (asked + 1))
    replies = CONVERSATIONS[name].replies[cue]
    return replies[min(asked, len(replies) - 1)]

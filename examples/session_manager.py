"""The library in your own process: sessions, runs and streams without HTTP.

Nothing else has to run:

    .venv/bin/python examples/session_manager.py [DIRECTORY]

Sessions are kept in DIRECTORY, or with the process when there is none.
"""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.callers import LOCAL_CALLER
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.events import AgentEvent, Token
from bamboo_gateway.domain.positions import parse_position
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession, StreamRequest
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.factory import make_store


class Echo(Agent):
    """An agent of your own: an async generator of events."""

    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        for word in turn.messages[-1].text.split():
            yield Token(word + " ")


async def main(directory: str | None) -> None:
    settings = Settings(
        storage_url="jsonl:" if directory else "memory:", data_dir=Path(directory or ".")
    )
    clock = SystemClock()
    store = make_store(settings, clock)
    await store.open()
    try:
        # Entering recovers what an earlier process left; leaving ends runs and keeps everything.
        async with SessionManager(store, {"default": Echo()}, settings, clock) as manager:
            session = NewSession(id="library", title="In process")
            chat = Chat(session, [NewMessage("user", "No server was harmed.")])
            turn = (await manager.chat(LOCAL_CALLER, chat)).answer

            wanted = StreamRequest(
                after=parse_position(turn["position"]),
                run_id=turn["run_id"],
                until_complete=True,
            )
            connection = await manager.connect(LOCAL_CALLER, "library", wanted, NATIVE)
            assert connection is not None  # the run is not older than the position
            while (frames := await connection.next()) is not None:
                print(frames.decode(), end="")
            connection.aclose()

            ended = await manager.wait_run(LOCAL_CALLER, "library", turn["run_id"], 30)
            assert ended.message is not None
            print(f"{ended.run['status']}: {ended.message['content']}")
    finally:
        await store.aclose()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else None)

"""A gateway process without HTTP, for tests that stop and kill it: `python -m` this with a URL.

It answers each line of its input with a line: `chat SESSION RUN`, `state SESSION`. Its agent notes
each time that it is asked in a file. It speaks until it is cancelled, or says `Done.` and ends when
the run's name begins with `short`.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import structlog
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.domain.callers import LOCAL_CALLER
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.events import AgentEvent, Complete, Token
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.manager import SessionManager
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.cluster.processes import TIMING
from tests.support.settings import given_settings


class CountingAgent(Agent):
    """Notes outside of the process that it was asked, and speaks."""

    def __init__(self, asked: Path) -> None:
        self._asked = asked

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        await asyncio.to_thread(note, self._asked, turn.run_id)
        number = 0
        while not turn.run_id.startswith("short"):
            yield Token(f"{number} ")
            number += 1
            await asyncio.sleep(0.005)
        yield Token("Done.")
        yield Complete()


def note(asked: Path, run_id: str) -> None:
    """Add a line to a file that several processes write."""
    descriptor = os.open(asked, os.O_APPEND | os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, f"{run_id}\n".encode())
    os.close(descriptor)


async def answer(manager: SessionManager, words: list[str]) -> dict[str, Any]:
    match words:
        case ["chat", session_id, run_id]:
            messages = [NewMessage("user", "hi")]
            outcome = await manager.chat(
                LOCAL_CALLER, Chat(NewSession(id=session_id), messages, run_id=run_id), None
            )
            return {**outcome.answer}
        case ["state", session_id]:
            writer = manager._registry.get(session_id)
            is_executing = writer is not None and writer.run is not None
            return {"executes": is_executing}
        case _:
            return {"error": "unknown"}


async def main(url: str, asked: str) -> None:
    store = PostgresStore(PostgresDatabase(Target(url), timing=TIMING), SystemClock())
    await store.open()
    settings = given_settings(storage_url=url, titles="off", drain_timeout_seconds=0)
    agents = {"default": CountingAgent(Path(asked))}
    async with SessionManager(store, agents, settings, SystemClock()) as manager:
        say(serves=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                say(**await answer(manager, line.split()))
            except BambooError as error:
                say(error=error.code)
    await store.aclose()


def say(**what: Any) -> None:
    """Answer."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(cast(Any, sys.stderr)))
    asyncio.run(main(*sys.argv[1:3]))

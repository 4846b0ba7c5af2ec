"""Several gateways without HTTP on one database in memory, and what tests do with them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from bamboo_gateway.sessions.commands import Idempotency, NewMessage, NewSession
from tests.support.clocks import FakeClock
from tests.support.gateways import ME, Gateway, gateway
from tests.support.shared_memory import SharedMemory, SharedStore


class Pair(NamedTuple):
    """Two gateways on one database."""

    memory: SharedMemory
    a: Gateway
    b: Gateway

    def store(self, gate: Gateway) -> SharedStore:
        assert isinstance(gate.store, SharedStore)
        return gate.store


@asynccontextmanager
async def running(**changed: Any) -> AsyncIterator[Pair]:
    clock = FakeClock()
    memory = SharedMemory(clock)
    stores = [await memory.store("a"), await memory.store("b")]
    async with (
        gateway(stores[0], clock=clock, **changed) as a,
        gateway(stores[1], clock=clock, **changed) as b,
    ):
        yield Pair(memory, a, b)


async def create(gate: Gateway) -> None:
    await gate.manager.create_session(ME, NewSession(id="s"))


async def say(gate: Gateway, text: str, key: str | None = None) -> None:
    """Add a message without a run."""
    idem = Idempotency(key, "POST /messages", text) if key else None
    await gate.manager.add_messages(ME, "s", [NewMessage("user", text)], idem)


async def texts(gate: Gateway) -> list[str]:
    return [
        "".join(part["text"] for part in content) if isinstance(content, list) else content
        for content in (message["content"] for message in await gate.messages())
    ]

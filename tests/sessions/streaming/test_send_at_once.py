"""R2, R7: what is committed is sent without the reader's task, and by it while it is slow."""

from typing import Any

import anyio
from anyio.abc import TaskGroup

from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.api.sse import WRITE, FrameLoop
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.sessions.commands import NewSession, StreamRequest
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually


class Client:
    """The server's side of a client: takes chunks, at once or, while it is slow, when it reads."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.is_reading = anyio.Event()
        self.is_reading.set()

    async def send(self, message: Any) -> None:
        if not self.is_reading.is_set():
            await self.is_reading.wait()
        self.chunks.append(message["body"])

    def write(self, chunk: bytes) -> bool:
        if not self.is_reading.is_set():
            return False
        self.chunks.append(chunk)
        return True

    async def receive(self) -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    def seqs(self) -> list[int]:
        ids = [line for line in b"".join(self.chunks).split(b"\n") if line.startswith(b"id: ")]
        return [int(line.rpartition(b"-")[2]) for line in ids]


async def watch(gate: Gateway, client: Client, group: TaskGroup) -> None:
    await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "first"}])
    connection = await gate.manager.connect(ME, "s", StreamRequest(from_start=True), NATIVE)
    assert connection is not None
    scope: Any = {"extensions": {WRITE: client.write}}
    frames = FrameLoop(connection, SystemClock())
    group.start_soon(frames.run, scope, client.receive, client.send)
    await eventually(lambda: client.seqs() == [0, 1, 2])


async def append(gate: Gateway, name: str) -> None:
    await gate.manager.append_events(ME, "s", [{"type": "custom", "name": name}])


async def test_a_reader_that_waits_has_an_event_before_any_other_task_runs(gate: Gateway):
    client = Client()
    with anyio.fail_after(DEADLINE_SECONDS):
        await gate.manager.create_session(ME, NewSession("s"))
        async with anyio.create_task_group() as group:
            await watch(gate, client, group)
            await append(gate, "second")
            assert client.seqs() == [0, 1, 2, 3]
            group.cancel_scope.cancel()


async def test_a_reader_that_is_slow_gets_each_event_once_and_in_order(gate: Gateway):
    client = Client()
    with anyio.fail_after(DEADLINE_SECONDS):
        await gate.manager.create_session(ME, NewSession("s"))
        async with anyio.create_task_group() as group:
            await watch(gate, client, group)
            client.is_reading = anyio.Event()
            for name in ("second", "third", "fourth"):
                await append(gate, name)
            await anyio.wait_all_tasks_blocked()
            assert client.seqs() == [0, 1, 2]
            client.is_reading.set()
            await eventually(lambda: client.seqs() == [0, 1, 2, 3, 4, 5])
            await append(gate, "fifth")
            assert client.seqs() == [0, 1, 2, 3, 4, 5, 6]
            group.cancel_scope.cancel()

"""R2, R7: what is committed is sent without the reader's task, and by it while it is slow."""

from typing import Any

import anyio
from anyio.abc import TaskGroup

from app.api.sse import ABORT, FrameLoop
from app.domain.clock import SystemClock
from app.sessions.commands import NewSession, StreamRequest
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, eventually


class Client:
    """The server's side of a client: takes chunks, or makes `send` wait before it writes."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.attempts = 0
        self.is_reading = anyio.Event()
        self.is_reading.set()
        self.error: Exception | None = None

    async def send(self, message: Any) -> None:
        self.attempts += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if not self.is_reading.is_set():
            await self.is_reading.wait()
        self.chunks.append(message["body"])

    async def receive(self) -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    def seqs(self) -> list[int]:
        ids = [line for line in b"".join(self.chunks).split(b"\n") if line.startswith(b"id: ")]
        return [int(line.rpartition(b"-")[2]) for line in ids]


async def watch(gate: Gateway, client: Client, group: TaskGroup) -> None:
    await gate.manager.append_events(ME, "s", [{"type": "custom", "name": "first"}])
    connection = await gate.manager.connect(ME, "s", StreamRequest(from_start=True))
    assert connection is not None
    scope: Any = {"extensions": {ABORT: lambda: None}}
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


async def test_an_error_of_the_server_does_not_reach_the_committer(gate: Gateway):
    client = Client()
    with anyio.fail_after(DEADLINE_SECONDS):
        await gate.manager.create_session(ME, NewSession("s"))
        async with anyio.create_task_group() as group:
            await watch(gate, client, group)
            client.error = RuntimeError("the server's")
            await append(gate, "second")
            await eventually(lambda: client.seqs() == [0, 1, 2, 3])
            group.cancel_scope.cancel()

"""Runs of real processes over a real PostgreSQL: killed, stopped and woken, executed once."""

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.storage.sql.postgresql.database import PostgresDatabase
from bamboo_gateway.storage.sql.postgresql.store import PostgresStore
from bamboo_gateway.storage.sql.postgresql.target import Target
from tests.cluster.processes import REPOSITORY, TIMING, Member
from tests.cluster.run_process import CountingAgent
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, gateway
from tests.support.stores import FaultyStore


@contextmanager
def process(url: str, directory: Path) -> Iterator[Member]:
    """Start a gateway process; what is left of it at the end is killed."""
    errors = directory / f"process-{len(list(directory.glob('process-*')))}"
    command = [sys.executable, "-m", "tests.cluster.run_process", url, str(directory / "asked")]
    with (
        errors.open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=REPOSITORY,
        ) as started,
    ):
        try:
            yield Member(started)
        finally:
            started.kill()


@asynccontextmanager
async def here(url: str, directory: Path) -> AsyncIterator[Gateway]:
    """Run a gateway in the test's own process, with the same counting agent."""
    store = PostgresStore(PostgresDatabase(Target(url), timing=TIMING), SystemClock())
    await store.open()
    try:
        faulty = FaultyStore(store)
        agent = CountingAgent(directory / "asked")
        async with gateway(faulty, agents={"default": agent}) as gate:
            yield gate
    finally:
        await store.aclose()


def asked(directory: Path) -> list[str]:
    """The runs for which an agent was asked, in whatever process."""
    return sorted((directory / "asked").read_text(encoding="utf-8").split())


async def ends(gate: Gateway, run_id: str) -> list[tuple[str, str]]:
    return [
        (event["type"], event.get("code") or event.get("reason") or "")
        for event in await gate.log()
        if event["type"] in TERMINAL_TYPES and event["run_id"] == run_id
    ]


async def until_so(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is so that other processes bring about."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while not await is_so():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def has_said(gate: Gateway, run_id: str, count: int = 5) -> None:
    """Wait until a run has said something that is stored."""

    async def is_so() -> bool:
        tokens = [event for event in await gate.log() if event["type"] == "token"]
        return len([event for event in tokens if event["run_id"] == run_id]) >= count

    await until_so(is_so)


async def check_words(gate: Gateway, run_id: str) -> None:
    """What was said is in the log without a gap, and is the run's one message."""
    events = [event for event in await gate.log() if event.get("run_id") == run_id]
    said = "".join(event["content"] for event in events if event["type"] == "token")
    assert said == "".join(f"{number} " for number in range(said.count(" ")))
    messages = [event["message"] for event in events if event["type"] == "message"]
    assert [one["content"] for one in messages if one["role"] == "assistant"] == [said]


async def test_the_run_of_a_killed_process_is_closed_once_and_its_queue_goes_on_elsewhere(
    postgres_url: str, tmp_path: Path
) -> None:
    with process(postgres_url, tmp_path) as first, process(postgres_url, tmp_path) as second:
        for one in (first, second):
            await to_thread.run_sync(one.answer)
        async with here(postgres_url, tmp_path) as gate:
            begun = await to_thread.run_sync(first.ask, "chat s long")
            assert begun["status"] == "running"
            queued = await to_thread.run_sync(second.ask, "chat s short")
            assert queued["status"] == "queued"
            await has_said(gate, "long")
            await to_thread.run_sync(first.kill)
            await gate.ended("long")
            await gate.ended("short")
            assert await ends(gate, "long") == [("error", "interrupted")]
            assert await ends(gate, "short") == [("complete", "")]
            await check_words(gate, "long")
            assert asked(tmp_path) == ["long", "short"]


async def test_a_process_that_stood_still_says_nothing_more_of_the_closed_run_and_starts_others(
    postgres_url: str, tmp_path: Path
) -> None:
    with process(postgres_url, tmp_path) as other:
        await to_thread.run_sync(other.answer)
        async with here(postgres_url, tmp_path) as gate:
            await to_thread.run_sync(other.ask, "chat s long")
            await has_said(gate, "long")
            other.stop()
            await gate.ended("long")
            log = await gate.log()
            other.go_on()

            async def has_given_up() -> bool:
                return not (await to_thread.run_sync(other.ask, "state s"))["executes"]

            await until_so(has_given_up)
            assert await gate.log() == log
            assert await ends(gate, "long") == [("error", "interrupted")]
            await check_words(gate, "long")
            await to_thread.run_sync(other.ask, "chat s short")
            await gate.ended("short")
            assert asked(tmp_path) == ["long", "short"]


async def test_a_cancel_reaches_the_process_that_executes_and_nothing_is_lost_beside_posts(
    postgres_url: str, tmp_path: Path
) -> None:
    with process(postgres_url, tmp_path) as other:
        await to_thread.run_sync(other.answer)
        async with here(postgres_url, tmp_path) as gate:
            await to_thread.run_sync(other.ask, "chat s long")
            for number in range(40):
                event = {"type": "custom", "name": "n", "value": number}
                await gate.manager.append_events(ME, "s", [event], None)
            await has_said(gate, "long", 20)
            with anyio.fail_after(DEADLINE_SECONDS):
                cancelled = (await gate.manager.cancel_run(ME, "s", "long")).answer
            assert cancelled["status"] == "cancelled"
            await check_words(gate, "long")
            notes = [event["value"] for event in await gate.log() if event["type"] == "custom"]
            assert notes == list(range(40))
            assert asked(tmp_path) == ["long"]


async def test_an_interrupt_at_another_process_starts_its_own_run_once(
    postgres_url: str, tmp_path: Path
) -> None:
    with process(postgres_url, tmp_path) as other:
        await to_thread.run_sync(other.answer)
        async with here(postgres_url, tmp_path) as gate:
            await to_thread.run_sync(other.ask, "chat s long")
            await has_said(gate, "long")
            await gate.chat(run_id="short", on_busy="interrupt")
            await gate.ended("short")
            assert await ends(gate, "long") == [("cancelled", "interrupted by a newer message")]
            assert await ends(gate, "short") == [("complete", "")]
            assert asked(tmp_path) == ["long", "short"]

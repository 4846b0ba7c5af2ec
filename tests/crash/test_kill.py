"""The gateway is killed again and again under load, and keeps what it promised.

R1: what was acknowledged is there. R2, R3: readers have seen exactly the log. R5: every run has one
end. R10: a torn tail costs nothing that was acknowledged. And people see what the log says, by
every way there is to look at it; the files are in order.

Lists and large answers keep the loop busy all the while, and checkpoints follow one another: what a
checkpoint hands over between the loop and the committer comes late, and each kill hits some of it.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.crash.traffic import Onlooker, Producer, Promises
from tests.e2e.watchers import HttpxSse, Seen, Watcher
from tests.processes import CONTROL_TYPES, Gateway
from tests.support.seen import check_files, check_what_people_see
from tests.support.waiting import until

TERMINAL_TYPES = {"complete", "error", "cancelled"}
STORES = ["jsonl:", "sqlite:"]
SESSIONS = 6
IDLE_SESSIONS = 150
ONLOOKERS = 2
PRODUCERS_PER_SESSION = 2
READERS_PER_SESSION = 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("storage_url", STORES)
def test_a_gateway_that_is_killed_loses_doubles_and_reorders_nothing(
    tmp_path: Path, storage_url: str, durability: str
) -> None:
    live_through_kills(
        tmp_path,
        rounds=2,
        storage_url=storage_url,
        durability=durability,
        checkpoint_seconds="0.1",
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("checkpoint_seconds", ["0.1", "1"])
@pytest.mark.parametrize("durability", ["fsync", "os"])
@pytest.mark.parametrize("storage_url", STORES)
def test_a_gateway_that_is_killed_a_hundred_times_loses_doubles_and_reorders_nothing(
    tmp_path: Path, storage_url: str, durability: str, checkpoint_seconds: str
) -> None:
    live_through_kills(
        tmp_path,
        rounds=50,
        storage_url=storage_url,
        durability=durability,
        checkpoint_seconds=checkpoint_seconds,
    )


def killed(gateway: Gateway) -> None:
    gateway.kill()
    gateway.start()


def live_through_kills(
    directory: Path,
    *,
    rounds: int,
    storage_url: str,
    durability: str,
    checkpoint_seconds: str,
    strike: Callable[[Gateway], None] = killed,
) -> None:
    """Strike again and again: kill the gateway, or what it needs; afterwards all run again."""
    seed = int(os.environ.get("CRASH_SEED") or random.randrange(2**32))
    print(f"CRASH_SEED={seed} brings the same moments back")
    dice = random.Random(seed)
    names = [f"s-{number}" for number in range(SESSIONS)]
    with ExitStack() as stack:
        gateway = stack.enter_context(
            Gateway(
                directory,
                {
                    "BAMBOO_STORAGE_URL": storage_url,
                    "BAMBOO_DURABILITY": durability,
                    "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": checkpoint_seconds,
                    "BAMBOO_LOG_LEVEL": "warning",
                },
            )
        )
        for name in names:
            gateway.call("POST", "/sessions", json={"id": name})
        for number in range(IDLE_SESSIONS):
            gateway.call("POST", "/sessions", json={"id": f"idle-{number}", "title": "t" * 500})
        onlookers = stack.enter_context(ExitStack())
        for _ in range(ONLOOKERS):
            onlookers.enter_context(Onlooker(gateway.url, names))
        readers = {
            name: [stack.enter_context(reading(gateway, name)) for _ in range(READERS_PER_SESSION)]
            for name in names
        }
        producers = {
            name: [
                Producer(gateway.url, name, f"{name}.{number}", dice.randrange(2**32))
                for number in range(PRODUCERS_PER_SESSION)
            ]
            for name in names
        }
        everybody = [producer for some in producers.values() for producer in some]
        for producer in everybody:
            producer.start()
        try:
            for _ in range(rounds):
                progress(gateway, names, dice)
                strike(gateway)
            progress(gateway, names, dice)
        finally:
            for producer in everybody:
                producer.finish()
            onlookers.close()
        for name in names:
            until(partial(no_run_is_open, gateway, name), "all runs have ended", 100)
            gateway.call("POST", f"/sessions/{name}/events", json={"type": "custom", "name": "end"})
            for reader in readers[name]:
                reader.wait_for_end()
        for name in names:
            log = gateway.events(name)
            assert_log_keeps(log, [producer.promises for producer in producers[name]])
            for reader in readers[name]:
                assert_reader_saw(reader.seen, log)
        told = {
            name: [
                texts
                for producer in producers[name]
                for texts in (producer.promises.messages, producer.promises.inputs)
            ]
            for name in names
        }
        check_what_people_see(gateway.http, told)
        # And once more, from what is on the disk alone.
        before = {name: gateway.events(name) for name in names}
        assert gateway.stop() == 0
        check_files(gateway.data_dir, storage_url)
        gateway.start()
        assert {name: gateway.events(name) for name in names} == before
        check_what_people_see(gateway.http, told, copies=False)
        assert gateway.stop() == 0
        check_files(gateway.data_dir, storage_url)


def progress(gateway: Gateway, names: list[str], dice: random.Random) -> None:
    """Let a random number of events happen in one of the sessions."""
    name = dice.choice(names)
    enough = head(gateway, name) + dice.randrange(1, 120)
    until(lambda: head(gateway, name) >= enough, "the session has grown")


def head(gateway: Gateway, name: str) -> int:
    position: str = gateway.call("GET", f"/sessions/{name}")["position"]
    return int(position.split("-")[1])


def no_run_is_open(gateway: Gateway, name: str) -> bool:
    runs = gateway.call("GET", f"/sessions/{name}/runs", params={"limit": 1000})["runs"]
    return all(run["status"] not in {"queued", "running"} for run in runs)


@contextmanager
def reading(gateway: Gateway, name: str) -> Iterator[Watcher]:
    watcher = HttpxSse()
    watcher.start(f"{gateway.url}/api/v1/stream/{name}?from=start")
    try:
        yield watcher
    finally:
        watcher.stop()


def assert_log_keeps(log: list[dict[str, Any]], promises: list[Promises]) -> None:
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    said = Counter(
        event["message"]["content"]
        for event in log
        if event["type"] == "message" and event["message"]["role"] == "user"
    )
    assert set(said.values()) <= {1}
    values = {event["value"]: event["seq"] for event in log if event["type"] == "custom"}
    assert len(values) == sum(event["type"] == "custom" for event in log)
    started = Counter(event["run_id"] for event in log if event["type"] == "run_start")
    ended = Counter(event["run_id"] for event in log if event["type"] in TERMINAL_TYPES)
    assert set(started.values()) <= {1}
    assert set(ended.values()) <= {1}
    assert started.keys() <= ended.keys()
    for promised in promises:
        for value, seq in promised.values.items():
            assert value in values
            assert seq in {0, values[value]}
        # One producer's values stand in the order in which it sent them.
        places = [values[value] for value in promised.values]
        assert places == sorted(places)
        assert {*promised.messages, *promised.inputs} <= said.keys()
        assert set(promised.runs) <= ended.keys()


def assert_reader_saw(seen: list[Seen], log: list[dict[str, Any]]) -> None:
    frames = [one for one in seen if one.event["type"] not in CONTROL_TYPES]
    assert [one.event for one in frames] == log
    assert len({one.id.split("-")[0] for one in frames}) == 1
    assert [int(one.id.split("-")[1]) for one in frames] == [event["seq"] for event in log]

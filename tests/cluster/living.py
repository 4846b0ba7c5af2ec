"""Clients of every kind at work on a deployment, while faults come; and what must hold then."""

import os
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from tests.cluster.checks import (
    check_changes,
    check_log,
    check_processes,
    check_reader,
    check_replicas_agree,
    check_starts,
    check_stored,
    check_words,
)
from tests.cluster.counting_agent import written_down
from tests.cluster.deployment import Deployment
from tests.cluster.readers import ChangesReader, RoamingReader
from tests.cluster.roaming import Roamer, RoamingProducer
from tests.cluster.strikes import Progress, Strikes
from tests.cluster.visitors import OutsideProgram, Visitor
from tests.support.waiting import until

SEED_VARIABLE = "CLUSTER_SEED"
FAULTS_VARIABLE = "CLUSTER_FAULTS"
"""Names of the faults that happen, separated by commas; unset: all."""
SESSIONS = 3
PRODUCERS_PER_SESSION = 2
READERS_PER_SESSION = 1
VISITORS = 2
ANSWERS_MAX = 25
"""The most answers that clients wait for between two faults."""


def dice_of_the_test() -> random.Random:
    """Return the chance of this run, which its output names."""
    seed = int(os.environ.get(SEED_VARIABLE) or random.randrange(2**32))
    print(f"{SEED_VARIABLE}={seed} brings the same faults back")
    return random.Random(seed)


def live_through(
    deployment: Deployment,
    dice: random.Random,
    rounds: int,
    *,
    strikes: Strikes | None = None,
    more_urls: tuple[str, ...] = (),
) -> None:
    """Let clients work while one fault after the other happens; check all that was promised.

    Args:
        deployment: What they work on; it is ended.
        dice: The chance.
        rounds: How many faults.
        strikes: Which; by default all kinds.
        more_urls: Further addresses of the gateways, of a balancer.
    """
    only = os.environ.get(FAULTS_VARIABLE)
    strikes = strikes or Strikes(deployment, dice, only=only.split(",") if only else None)
    urls = [*(replica.front_url for replica in deployment.replicas), *more_urls]
    names = [f"s-{number}" for number in range(SESSIONS)]
    with ExitStack() as stack:
        keeper = Roamer(urls, random.Random(dice.randrange(2**32)))
        stack.callback(keeper.close)
        for name in names:
            keeper.call("POST", "/sessions", json={"id": name}, key=name)
        cursor = keeper.call("GET", "/changes")["next"]
        watcher = Roamer(urls, random.Random(dice.randrange(2**32)))
        stack.callback(watcher.close)
        changes = ChangesReader(watcher.send, cursor)
        readers: dict[str, list[RoamingReader]] = {}
        for name in names:
            readers[name] = []
            for _ in range(READERS_PER_SESSION):
                reader = RoamingReader(urls, name, dice.randrange(2**32))
                reader.begin()
                stack.callback(reader.stop)
                readers[name].append(reader)
        producers = {
            name: [
                RoamingProducer(urls, name, f"{name}.{number}", dice.randrange(2**32))
                for number in range(PRODUCERS_PER_SESSION)
            ]
            for name in names
        }
        everybody = [one for some in producers.values() for one in some]
        visitors: list[Visitor] = [
            Visitor(urls, f"visitor-{number}", dice.randrange(2**32)) for number in range(VISITORS)
        ]
        visitors.append(OutsideProgram(urls, "outside", dice.randrange(2**32)))
        workers: list[RoamingProducer | Visitor] = [*everybody, *visitors]
        changes.start()
        for worker in workers:
            worker.start()
        progress = Progress(lambda: sum(worker.roamer.acts for worker in workers))
        try:
            strike_again_and_again(strikes, rounds, progress, workers, dice)
        finally:
            strikes.settle()
            with ExitStack() as ending:
                for worker in workers:
                    ending.callback(worker.finish)
        print(f"{dict(strikes.made)}; {progress.answers()} answers")
        print(f"readers moved {sum(one.moves for some in readers.values() for one in some)} times")
        for replica in deployment.replicas:
            for name in names:
                until(partial(no_run_is_open, replica.call, name), "all runs have ended")
        for name in names:
            end = {"type": "custom", "name": "end"}
            keeper.call("POST", f"/sessions/{name}/events", json=end, key=f"end-{name}")
            for reader in readers[name]:
                reader.wait_for_end()
        changes.finish()
        check_changes(deployment, changes.positions, names)
        counted = written_down(deployment.agent_file)
        for name in names:
            logs = [replica.events(name) for replica in deployment.replicas]
            assert all(log == logs[0] for log in logs), "replicas show different logs"
            check_log(logs[0], [producer.promises for producer in producers[name]])
            check_words(logs[0], counted)
            for reader in readers[name]:
                check_reader(reader.seen, logs[0])
        check_starts(deployment)
        told = {
            name: [
                texts
                for producer in producers[name]
                for texts in (producer.promises.messages, producer.promises.inputs)
            ]
            for name in names
        }
        check_replicas_agree(deployment, told)
    check_processes(deployment)
    deployment.stop()
    check_stored(deployment.storage_url, deployment.directory / "doctor")


def strike_again_and_again(
    strikes: Strikes,
    rounds: int,
    progress: Progress,
    workers: Sequence[RoamingProducer | Visitor],
    dice: random.Random,
) -> None:
    """Let one fault after the other happen, each when clients have got some answers more."""
    for number in range(rounds):
        name = strikes.next()
        what = f"clients go on after round {number}, {name}"
        progress.wait(dice.randrange(1, ANSWERS_MAX), partial(_why, what, workers))
        failed = [one.failure for one in workers if one.failure]
        assert not failed, "\n".join(failed)


def no_run_is_open(call: Callable[..., dict[str, list[dict[str, str]]]], name: str) -> bool:
    """Tell whether all runs of a session have ended."""
    runs = call("GET", f"/sessions/{name}/runs", params={"limit": 1000, "order": "desc"})["runs"]
    return all(run["status"] not in {"queued", "running"} for run in runs)


def _why(what: str, workers: Sequence[RoamingProducer | Visitor]) -> str:
    return f"{what}; failed: {[one.failure for one in workers if one.failure]}"

"""The primary is lost and a synchronous standby takes over: nothing acknowledged is lost."""

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.checks import (
    check_log,
    check_processes,
    check_replicas_agree,
    check_starts,
    check_stored,
    check_words,
)
from tests.cluster.counting_agent import written_down
from tests.cluster.deployment import Deployment
from tests.cluster.living import dice_of_the_test, no_run_is_open
from tests.cluster.readers import RoamingReader
from tests.cluster.roaming import Roamer, RoamingProducer
from tests.cluster.strikes import Progress
from tests.processes import CONTROL_TYPES
from tests.support.postgres import own_server, own_synchronous_standby
from tests.support.waiting import until

SESSIONS = ("s-0", "s-1")
ANSWERS = 60


@pytest.mark.timeout(600)
def test_a_failover_to_a_synchronous_standby_loses_nothing_that_was_acknowledged_or_shown(
    tmp_path: Path,
) -> None:
    dice = dice_of_the_test()
    with own_server() as primary, own_synchronous_standby(primary) as standby:

        def both(database: str) -> str:
            one = primary.url(database)
            return one.replace(
                f"127.0.0.1:{primary.port}",
                f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}",
            )

        with Deployment(tmp_path, 2, postgres=primary, storage_url=both) as deployment:
            urls = [replica.front_url for replica in deployment.replicas]
            roamer = Roamer(urls, random.Random(dice.randrange(2**32)))
            for name in SESSIONS:
                roamer.call("POST", "/sessions", json={"id": name}, key=name)
            readers = {name: RoamingReader(urls, name, dice.randrange(2**32)) for name in SESSIONS}
            producers = {
                name: [
                    RoamingProducer(urls, name, f"{name}.{number}", dice.randrange(2**32))
                    for number in range(2)
                ]
                for name in SESSIONS
            }
            workers = [one for some in producers.values() for one in some]
            progress = Progress(lambda: sum(one.roamer.acts for one in workers))
            for reader in readers.values():
                reader.begin()
            for worker in workers:
                worker.start()
            try:
                progress.wait(ANSWERS, lambda: "clients work")
                primary.stop(signal.SIGQUIT)
                standby.promote()
                deployment.postgres = standby
                progress.wait(ANSWERS, lambda: "clients go on with the standby")
            finally:
                for worker in workers:
                    worker.finish()
                for reader in readers.values():
                    reader.stop()
            until(deployment.all_ready, "all replicas are ready")
            for name in SESSIONS:
                first = deployment.replicas[0]
                until(partial(no_run_is_open, first.call, name), "all runs have ended")
                log = first.events(name)
                check_log(log, [producer.promises for producer in producers[name]])
                check_words(log, written_down(deployment.agent_file))
                lives = shown_by_epoch(readers[name])
                assert len(lives) == 2, "a failover gives every session a new epoch"
                for shown in lives.values():
                    assert shown
                    assert shown == log[: len(shown)]
            check_starts(deployment)
            check_replicas_agree(
                deployment,
                {name: [one.promises.messages for one in producers[name]] for name in SESSIONS},
            )
            roamer.close()
            check_processes(deployment)
            deployment.stop()
            check_stored(deployment.storage_url, tmp_path / "doctor")


def shown_by_epoch(reader: RoamingReader) -> dict[str, list[dict[str, Any]]]:
    """Return the events that a reader was shown, by epoch: it begins again with each."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for one in reader.seen:
        if one.event["type"] not in CONTROL_TYPES | {"reset"}:
            shown.setdefault(one.id.split("-")[0], []).append(one.event)
    return shown

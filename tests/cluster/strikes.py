"""Faults, one a round, at a replica, at a wire or at what all replicas need.

A fault that lasts ends by itself after a while; meanwhile others come. Some replica always has its
process and its wires, so that clients make progress.
"""

import logging
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Collection

from tests.cluster.deployment import Deployment, Replica
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

log = logging.getLogger(__name__)
_SHORT_SECONDS = (0.05, 1.5)
_LONG_SECONDS = (2.0, 20.0)


class Strikes:
    """Chooses faults and makes them happen.

    Attributes:
        made: How often each has happened.
    """

    def __init__(
        self, deployment: Deployment, dice: random.Random, *, only: Collection[str] | None = None
    ) -> None:
        self.made: Counter[str] = Counter()
        self._deployment = deployment
        self._dice = dice
        self._busy: set[int] = set()
        self._timers: list[threading.Timer] = []
        self._lock = threading.Lock()
        self._failure: BaseException | None = None
        kinds: dict[str, tuple[int, Callable[[], object]]] = {
            "kill": (12, self._kill),
            "terminate": (6, self._terminate),
            "stand still": (10, self._stand_still),
            "stand still long": (1, self._stand_still_long),
            "cut database": (16, self._cut_database),
            "hold database": (8, self._hold_database),
            "slow database": (6, self._slow_database),
            "cut clients": (12, self._cut_clients),
            "hold clients": (8, self._hold_clients),
            "restart postgres": (2, self._restart_postgres),
            "end backends": (3, self._end_backends),
        }
        if deployment.redis is not None:
            kinds |= {
                "cut bus": (6, self._cut_bus),
                "hold bus": (4, self._hold_bus),
                "restart redis": (3, self._restart_redis),
                "flush redis": (3, self._flush_redis),
            }
        self._kinds = {name: how for name, how in kinds.items() if only is None or name in only}

    def next(self) -> str:
        """Let the next fault happen; return its name."""
        names = list(self._kinds)
        weights = [self._kinds[name][0] for name in names]
        (name,) = self._dice.choices(names, weights)
        self.made[name] += 1
        log.debug("round %s: %s", self.made.total(), name)
        self._kinds[name][1]()
        return name

    def settle(self) -> None:
        """Wait until every fault has ended."""
        for timer in self._timers:
            timer.join(60)
        self._deployment.heal()

    def _one(self) -> Replica | None:
        """Choose a replica that no lasting fault has; None when it would be the last one."""
        replicas = self._deployment.replicas
        with self._lock:
            free = [one for one in replicas if one.number not in self._busy]
        if not free or (len(free) == 1 and len(replicas) > 1):
            return None
        return self._dice.choice(free)

    def _for_a_while(
        self, replica: Replica, end: Callable[[], object], seconds: tuple[float, float]
    ) -> None:
        def over() -> None:
            end()
            with self._lock:
                self._busy.discard(replica.number)

        with self._lock:
            self._busy.add(replica.number)
        timer = threading.Timer(self._dice.uniform(*seconds), over)
        self._timers.append(timer)
        timer.start()

    def _kill(self) -> None:
        if (one := self._one()) is not None:
            one.strike_dead()

    def _terminate(self) -> None:
        # A second SIGTERM would mean: at once, whatever is lost.
        one = self._one()
        if one is not None and not one.is_ending:
            one.terminate()

    def _stand_still(self) -> None:
        self._hold_process(_SHORT_SECONDS)

    def _stand_still_long(self) -> None:
        self._hold_process(_LONG_SECONDS)

    def _hold_process(self, seconds: tuple[float, float]) -> None:
        if (one := self._one()) is not None:
            one.hold()
            self._for_a_while(one, one.go_on, seconds)

    def _cut_database(self) -> None:
        self._dice.choice(self._deployment.replicas).back.cut_all()

    def _hold_database(self) -> None:
        if (one := self._one()) is not None:
            self._hold(one, one.back)

    def _slow_database(self) -> None:
        if (one := self._one()) is not None:
            one.back.delay(self._dice.choice([0.005, 0.02, 0.1]))
            self._for_a_while(one, one.back.heal, _SHORT_SECONDS)

    def _cut_clients(self) -> None:
        self._dice.choice(self._deployment.replicas).front.cut_all()

    def _hold_clients(self) -> None:
        if (one := self._one()) is not None:
            self._hold(one, one.front)

    def _hold(self, replica: Replica, wire: TcpProxy) -> None:
        wire.hold()
        self._for_a_while(replica, wire.heal, _SHORT_SECONDS)

    def _restart_postgres(self) -> None:
        how = self._dice.choice([signal.SIGQUIT, signal.SIGKILL, signal.SIGINT])
        self._deployment.postgres.restart(how)

    def _end_backends(self) -> None:
        self._deployment.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.5"
        )

    def _cut_bus(self) -> None:
        side = self._dice.choice(self._deployment.replicas).side
        assert side is not None
        side.cut_all()

    def _hold_bus(self) -> None:
        one = self._one()
        if one is not None and one.side is not None:
            self._hold(one, one.side)

    def _restart_redis(self) -> None:
        assert self._deployment.redis is not None
        self._deployment.redis.restart()

    def _flush_redis(self) -> None:
        assert self._deployment.redis is not None
        self._deployment.redis.flush()


class Progress:
    """Waits until clients have got so many more answers."""

    def __init__(self, answers: Callable[[], int]) -> None:
        self.answers = answers

    def wait(self, answers: int, what: Callable[[], str]) -> None:
        """Wait for so many answers from now."""
        enough = self.answers() + answers
        until(lambda: self.answers() >= enough, what)

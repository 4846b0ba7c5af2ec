"""Several gateways on one PostgreSQL, as an operator runs them, with every wire within reach.

    clients → [front] → replica → [back] → (PgBouncer →) PostgreSQL
    clients → HAProxy → [front] …      replica → [side] → Redis

What is in brackets is a proxy of the test, which cuts, holds and delays. A supervisor starts a
replica again that has ended, as systemd, Docker or Kubernetes do.
"""

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx
from typing_extensions import override

from tests.cluster import counting_agent
from tests.processes import Gateway
from tests.support.pgbouncer import pgbouncer
from tests.support.postgres import PostgresServer, own_server
from tests.support.redis import RedisServer, own_redis
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import until

_SUPERVISOR_SECONDS = 0.02
_CALL_SECONDS = 5.0
_LOOK_SECONDS = 0.5
# Long enough for a run of the tests to end by itself, short enough that some do not.
_DRAIN_SECONDS = "1"


class Replica(Gateway):
    """One of the gateways.

    Attributes:
        number: Which one, from 0.
        front: Between clients and the gateway.
        back: Between the gateway and the database.
        side: Between the gateway and Redis, if there is one.
        is_wanted: Whether the supervisor has to start it when it has ended.
        is_held: Whether it stands still (SIGSTOP).
        ended_by_itself: The exit codes of ends that nobody asked for.
    """

    def __init__(
        self,
        number: int,
        directory: Path,
        settings: Mapping[str, str],
        back: TcpProxy,
        side: TcpProxy | None,
    ) -> None:
        directory.mkdir()
        flags = ("--agent", f"default={counting_agent.ADDRESS}")
        super().__init__(directory, settings, flags)
        self.number = number
        self.front = TcpProxy(self.port)
        self.back = back
        self.side = side
        self.is_wanted = False
        self.is_held = False
        self.ended_by_itself: list[int] = []
        self._was_ready = self._was_killed = self._was_terminated = False
        # The supervisor, the faults and their timers look after the process from threads of theirs.
        self._lock = threading.RLock()

    @property
    def front_url(self) -> str:
        """Its address for clients that may be cut off."""
        return f"http://127.0.0.1:{self.front.port}"

    @property
    def is_ending(self) -> bool:
        """Whether it was asked to end and has not been started again since."""
        return self._was_terminated

    @override
    def launch(self) -> None:
        """Start it, without waiting."""
        self._was_ready = self._was_killed = self._was_terminated = self.is_held = False
        super().launch()

    def strike_dead(self) -> None:
        """End it without a warning (SIGKILL), and let the supervisor find it."""
        with self._lock:
            assert self.process is not None
            self._was_killed = True
            self.process.kill()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM), and let the supervisor find it."""
        with self._lock:
            self._was_terminated = True
            self.interrupt()

    def hold(self) -> None:
        """Let it stand still (SIGSTOP)."""
        with self._lock:
            assert self.process is not None
            self.is_held = True
            self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on (SIGCONT)."""
        with self._lock:
            assert self.process is not None
            self.process.send_signal(signal.SIGCONT)
            self.is_held = False

    def is_ready(self, patience_seconds: float = _CALL_SECONDS) -> bool:
        """Tell whether it is ready at this moment."""
        with self._lock:
            if self.process is None or self.process.poll() is not None or self.is_held:
                return False
        try:
            is_ready = self.http.get("/health/ready", timeout=patience_seconds).status_code == 200
        except httpx.TransportError:
            return False
        self._was_ready |= is_ready
        return is_ready

    def supervise(self) -> None:
        """Start it again when it has ended; note an end that nobody asked for."""
        with self._lock:
            if not self.is_wanted or self.process is None:
                return
            code = self.process.poll()
            if code is None:
                if not self._was_ready:
                    self.is_ready(_LOOK_SECONDS)
                return
            # One that never was ready may have met a database that is away just then.
            # And SIGTERM may have come before there was anything that it could end.
            is_well = self._was_killed or (self._was_terminated and code in {0, -signal.SIGTERM})
            if self._was_ready and not is_well:
                self.ended_by_itself.append(code)
            self.launch()

    def finish(self) -> None:
        """End it for good, however it is."""
        self.is_wanted = False
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.http.close()


class Deployment:
    """Replicas and what they stand on.

    Attributes:
        replicas: All of them.
        postgres: The database's server.
        redis: The bus, if there is one.
        agent_file: Where the agents write down their starts.

    Args:
        directory: Where the replicas write.
        count: How many replicas.
        with_redis: Whether they have a bus.
        with_pgbouncer: Whether every other one reaches the database through PgBouncer.
        postgres: A server to use; None: one of its own.
        settings: More settings of all replicas.
        storage_url: Makes the address of the database of its name, without a proxy between.
    """

    def __init__(
        self,
        directory: Path,
        count: int,
        *,
        with_redis: bool = False,
        with_pgbouncer: bool = False,
        postgres: PostgresServer | None = None,
        settings: Mapping[str, str] | None = None,
        storage_url: Callable[[str], str] | None = None,
    ) -> None:
        self.directory = directory
        self.replicas: list[Replica] = []
        self.redis: RedisServer | None = None
        self.agent_file = directory / "starts"
        self._count = count
        self._with_redis = with_redis
        self._with_pgbouncer = with_pgbouncer
        self._given = postgres
        self._settings = dict(settings or {})
        self._storage_url = storage_url
        self._stack = ExitStack()
        self._is_over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            enter = stack.enter_context
            self.postgres = self._given or enter(own_server({"fsync": "off"}))
            self.database = enter(self.postgres.database())
            if self._with_redis:
                self.redis = enter(own_redis())
            bouncer = enter(pgbouncer(self.postgres)) if self._with_pgbouncer else None
            for number in range(self._count):
                # Every other one has PgBouncer between itself and the database.
                behind = bouncer if bouncer and number % 2 == 0 else self.postgres.port
                back = enter(TcpProxy(behind))
                side = enter(TcpProxy(self.redis.port)) if self.redis else None
                where = self.directory / f"replica-{number}"
                replica = Replica(number, where, self._settings_of(back, side), back, side)
                enter(replica.front)
                self.replicas.append(replica)
            stack.callback(self._end)
            for replica in self.replicas:
                replica.launch()
            until(self.all_ready, self._why_not_ready)
            for replica in self.replicas:
                replica.is_wanted = True
            self._supervisor.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        with self._stack:
            if error:
                for replica in self.replicas:
                    print(f"The log of replica {replica.number} ends with:", replica.log[-6000:])

    def all_ready(self) -> bool:
        """Tell whether every replica is ready."""
        return all(replica.is_ready() for replica in self.replicas)

    def heal(self) -> None:
        """End every fault that lasts, and wait until all is well."""
        for replica in self.replicas:
            for wire in (replica.front, replica.back, replica.side):
                if wire is not None:
                    wire.heal()
            if replica.is_held:
                replica.go_on()
        until(self.all_ready, self._why_not_ready)

    def stop(self) -> None:
        """End all replicas in order; each has to end well."""
        for replica in self.replicas:
            replica.is_wanted = False
        for replica in self.replicas:
            assert replica.stop() == 0, replica.log[-2000:]

    def query(self, statement: str) -> list[tuple[object, ...]]:
        """Ask the database itself, past all gateways."""
        return self.postgres.run(statement, self.database)

    @property
    def storage_url(self) -> str:
        """The database's address, without a proxy between."""
        return self.postgres.url(self.database)

    def _settings_of(self, back: TcpProxy, side: TcpProxy | None) -> dict[str, str]:
        url = self.postgres.url(self.database, back.port)
        if self._storage_url is not None:
            url = self._storage_url(self.database)
        bus = {"BAMBOO_BUS_URL": f"redis://127.0.0.1:{side.port}/0"} if side else {}
        return {
            "BAMBOO_STORAGE_URL": url,
            "BAMBOO_LOG_LEVEL": "warning",
            "BAMBOO_HEARTBEAT_INTERVAL_SECONDS": "1",
            "BAMBOO_DRAIN_TIMEOUT_SECONDS": _DRAIN_SECONDS,
            counting_agent.VARIABLE: str(self.agent_file),
            **bus,
            **self._settings,
        }

    def _why_not_ready(self) -> str:
        return "all replicas are ready:\n" + "\n".join(one.log[-2000:] for one in self.replicas)

    def _supervise(self) -> None:
        while not self._is_over.wait(_SUPERVISOR_SECONDS):
            for replica in self.replicas:
                replica.supervise()

    def _end(self) -> None:
        self._is_over.set()
        if self._supervisor.ident is not None:
            self._supervisor.join(60)
        for replica in self.replicas:
            replica.finish()

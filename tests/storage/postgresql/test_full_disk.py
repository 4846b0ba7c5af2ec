"""R1: the disk of PostgreSQL is really full; what was acknowledged is there, and it goes on."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Gateway
from tests.support.kept import ordinary_directory, ordinary_user
from tests.support.postgres import PostgresServer, execute
from tests.support.seen import check_session
from tests.support.waiting import until

# An empty database has 8 MB.
TABLES_MIB = 32
FILLER_MIB = 12
LARGE = "x" * 100_000
# All of a small disk, several times.
ATTEMPTS_MAX = 2000


@contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """Mount a small file system that PostgreSQL's user can write to."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    uid, gid = ordinary_user() or (0, 0)
    with ordinary_directory("pg-disk-") as place:
        options = f"size={mib}m,uid={uid},gid={gid},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine may not mount a small file system: {done.stderr.strip()}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


class Writing:
    """Somebody who writes until the disk is full, and knows what was acknowledged."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.said: list[str] = []
        gateway.call("POST", "/sessions", json={"id": "s"})

    def say(self) -> tuple[int, str]:
        """Add a message; return the status and the code of the answer."""
        # Different in each, so that nothing makes it smaller.
        text = f"{len(self.said)} {os.urandom(50_000).hex()}"
        body = {"role": "user", "content": text}
        answer = self.gateway.http.post("/sessions/s/messages", json=body)
        if answer.is_success:
            self.said.append(text)
            return answer.status_code, ""
        return answer.status_code, answer.json()["code"]

    def until_refused(self) -> tuple[int, str]:
        for _ in range(ATTEMPTS_MAX):
            status, code = self.say()
            if status != 201:
                return status, code
        raise AssertionError("the disk is never full")

    def check(self) -> None:
        """By every route that shows messages: what was acknowledged, once, and nothing else."""
        check_session(self.gateway.http, "s", [self.said])


def test_tables_without_space_refuse_writes_and_serve_reads(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    with small_disk(TABLES_MIB) as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(FILLER_MIB << 20))
        execute(own_postgres.url(), f"CREATE TABLESPACE small LOCATION '{disk}'")
        with own_postgres.database("TABLESPACE small") as name:
            settings = {"BAMBOO_STORAGE_URL": own_postgres.url(name)}
            with Gateway(tmp_path, settings) as gateway:
                writing = Writing(gateway)
                assert writing.until_refused() == (503, "storage-full")
                writing.check()
                assert gateway.http.get("/health/live").status_code == 200
                filler.unlink()
                acknowledged = len(writing.said)
                until(lambda: writing.say()[0] == 201, "it goes on when there is space")
                assert len(writing.said) > acknowledged
                writing.check()
        execute(own_postgres.url(), "DROP TABLESPACE small")

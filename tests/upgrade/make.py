"""Make the data of a version, which every later version has to open: `tests/data/upgrade`.

    python -m tests.upgrade.make NAME            of the working tree: for a release, its version
    python -m tests.upgrade.make NAME COMMIT     of an earlier commit of this repository

For each store that the version has there are `NAME-STORE.tar.gz`, its data directory as it was left
by `kill -9` (of PostgreSQL: a dump in SQL), and in it `seen.json`: what readers of that version see
of the same data.
"""

import gzip
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.processes import BAMBOO, REPOSITORY
from tests.support.postgres import binaries, own_server
from tests.upgrade.conversations import SETTINGS, GatewayOf, hold_conversations, seen

DATA: Final = REPOSITORY / "tests" / "data" / "upgrade"
STORES: Final = ("jsonl", "sqlite", "postgresql")
BYTES_MAX: Final = 200_000
"""The largest file of one version and store: the repository keeps them for good."""

_NOT_KEPT: Final = frozenset({"LOCK", "ticket-secret"})
"""What belongs to the process or machine, and must not be the same on two."""


class Program(NamedTuple):
    """How a version of the gateway is started."""

    command: tuple[str, ...]
    path: Path
    directory: Path
    stores: tuple[str, ...]


def make(name: str, commit: str | None) -> None:
    """Make the files of one version."""
    DATA.mkdir(parents=True, exist_ok=True)
    with _program(commit) as program:
        for store in program.stores:
            with tempfile.TemporaryDirectory() as directory:
                file = _of_store(name, store, program, Path(directory))
            size = file.stat().st_size
            print(f"{file.relative_to(REPOSITORY)}: {size} bytes")
            if size > BYTES_MAX:
                sys.exit(f"error: {file.name} has more than {BYTES_MAX} bytes")


@contextmanager
def _program(commit: str | None) -> Iterator[Program]:
    with ExitStack() as stack:
        tree = REPOSITORY
        if commit is not None:
            tree = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tree"
            git = ["git", "-C", str(REPOSITORY), "worktree"]
            subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
            stack.callback(subprocess.run, [*git, "remove", "--force", str(tree)], check=True)
        is_old = not (tree / "app" / "bamboo_gateway").is_dir()
        package = tree / "app" if is_old else tree / "app" / "bamboo_gateway"
        has_sql = (package / "storage" / "sql").is_dir()
        yield Program(
            command=(*BAMBOO[:2], "app") if is_old else BAMBOO,
            path=tree if is_old else tree / "app",
            directory=tree,
            stores=STORES if has_sql else STORES[:1],
        )


def _of_store(name: str, store: str, program: Program, directory: Path) -> Path:
    settings = {**SETTINGS, "PYTHONPATH": str(program.path)}
    with ExitStack() as stack:
        if store == "postgresql":
            server = stack.enter_context(own_server())
            settings["BAMBOO_STORAGE_URL"] = server.url(stack.enter_context(server.database()))
        elif store == "sqlite":
            settings["BAMBOO_STORAGE_URL"] = "sqlite:"
        where = program.directory
        with GatewayOf(directory, program.command, settings, where) as gateway:
            hold_conversations(gateway)
        if store == "postgresql":
            (gateway.data_dir / "dump.sql").write_text(
                _dump(settings["BAMBOO_STORAGE_URL"]), "utf-8"
            )
        kept = directory / "kept"
        shutil.copytree(gateway.data_dir, kept, ignore=shutil.ignore_patterns(*_NOT_KEPT))
        with GatewayOf(directory, program.command, settings, where) as gateway:
            (kept / "seen.json").write_text(json.dumps(seen(gateway.http)), "utf-8")
            gateway.stop()
    return _packed(kept, DATA / f"{name}-{store}.tar.gz")


def _dump(url: str) -> str:
    options = ["--no-owner", "--no-privileges", "--inserts", "--rows-per-insert=100"]
    dumped = subprocess.run(
        [binaries() / "pg_dump", *options, url], capture_output=True, text=True, check=True
    )
    # Commands of psql (`\restrict`) are no SQL.
    return re.sub(r"^\\.*\n", "", dumped.stdout, flags=re.MULTILINE)


def _packed(directory: Path, file: Path) -> Path:
    """Pack a directory without times and users, so that the same data gives the same bytes."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for path in sorted(directory.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(directory)))
            entry.mtime = entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if path.is_file():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)
    file.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return file


if __name__ == "__main__":
    if len(sys.argv) not in {2, 3}:
        sys.exit(__doc__)
    make(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)

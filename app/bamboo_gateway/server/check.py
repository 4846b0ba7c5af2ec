"""What would stop a start with these settings, without a start: `bamboo config check`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bamboo_gateway.agents.factory import make_agent
from bamboo_gateway.bus.factory import make_bus
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.server.server import StartError, check_reach, resolve
from bamboo_gateway.sessions.runs.titling import check_titles
from bamboo_gateway.settings import Settings
from bamboo_gateway.storage.factory import make_store


def start_faults(settings: Settings) -> list[str]:
    """Return one line for everything that would stop a start; each part is tried by itself.

    Nothing is opened, created or called, but the modules of Python agents are imported. What only
    the start can know is left to it: whether the port is free, whether the database answers, and
    whether it has keys.
    """
    clock = SystemClock()
    faults: list[str] = []
    for name, url in settings.agents.items():
        with _noted(faults):
            make_agent(name, url, settings, _no_session)
    with _noted(faults):
        check_titles(settings.titles, settings.agents)
    with _noted(faults):
        make_store(settings, clock)
    with _noted(faults):
        make_bus(settings, clock, str)
    with _noted(faults):
        addresses = resolve(settings)
        gate = Gate(settings, clock)
        if not settings.keeps_keys_in_store:
            check_reach(settings, gate, addresses)
    if settings.otel_endpoint and find_spec("opentelemetry") is None:
        faults.append(
            "otel_endpoint is set, and OpenTelemetry is missing: install bamboo-gateway[otel]."
        )
    faults += _unreadable(settings)
    faults += _unwritable(settings)
    return faults


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    try:
        yield
    except BambooError as error:
        faults.append(error.detail)
    except StartError as error:
        faults.append(str(error))


def _no_session(*_: object) -> dict[str, object]:
    return {}  # no agent is asked anything here


def _unreadable(settings: Settings) -> Iterator[str]:
    """Yield a line for each file that is read only later, and cannot be."""
    file = settings.storage_password_file
    if file is not None and not _allows(file.expanduser(), os.R_OK):
        yield f"storage_password_file: {file} cannot be read"


def _unwritable(settings: Settings) -> Iterator[str]:
    """Yield a line for each directory that can neither be used nor made."""
    if settings.storage.scheme == "memory":
        return
    wanted = {"data_dir": settings.data_dir.expanduser(), "storage_url": settings.storage_dir}
    seen: set[Path] = set()
    for name, directory in wanted.items():
        if directory is None or directory in seen:
            continue
        seen.add(directory)
        there = next(one for one in (directory, *directory.absolute().parents) if one.exists())
        if not there.is_dir():
            yield f"{name}: {there} is not a directory"
        elif not _allows(there, os.W_OK | os.X_OK):
            yield f"{name}: this user may not write in {there}"


def _allows(path: Path, mode: int) -> bool:
    return path.exists() and os.access(path, mode)

"""Who a gateway process is: for people, and for other processes of the same machine."""

import os
import socket
from pathlib import Path
from typing import Any

from bamboo_gateway.domain import codec


def own_name() -> str:
    """Return what names this process, as `executors.name` has it."""
    pid = os.getpid()
    name = {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": machine(),
        "started": _start_of(pid),
    }
    return codec.encode(name).decode()


def machine() -> str | None:
    """Return what processes have in common that can see one another's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def is_gone(name: str) -> bool:
    """Return whether a process ran on this machine and has ended."""
    known = _read(name)
    place, pid = known.get("machine"), known.get("pid")
    if place is None or place != machine() or not isinstance(pid, int):
        return False
    return _start_of(pid) != known.get("started")


def shown(name: str) -> str:
    """Return what people read of a process."""
    known = _read(name)
    return f"process {known.get('pid', '?')} on {known.get('host', '?')}"


def _start_of(pid: int) -> str | None:
    """Return when a process began, which tells it from a later one of the same id."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name of the program is in parentheses and may have any character.
    fields = text.rpartition(")")[2].split()
    # A zombie has ended, and only its parent does not know yet.
    return None if fields[0] in {"Z", "X"} else fields[19]


def _read(name: str) -> dict[str, Any]:
    try:
        known = codec.decode(name.encode())
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}

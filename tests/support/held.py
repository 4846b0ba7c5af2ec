"""How much memory an object of the gateway, or a whole process, keeps."""

from pathlib import Path
from typing import Any

_PLAIN = (str, bytes, bytearray)
_SHARED = ("_store", "_clock", "tally", "_tally")
"""Attributes that lead out of an object, to what all share."""


def held_bytes(root: object) -> int:
    """Add up the text and bytes that can be reached from an object of the gateway.

    Containers and the gateway's own objects are looked into; functions and tasks are not, nor what
    all sessions share.
    """
    seen: set[int] = set()
    waiting: list[object] = [root]
    size = 0
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, _PLAIN):
            size += len(value)
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif type(value).__module__.startswith("bamboo_gateway."):
            waiting += _parts(value)
    return size


def resident_bytes(pid: int) -> int:
    """Return what a process has in physical memory."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) * 1024
    raise AssertionError(f"process {pid} has no memory")


def _parts(value: Any) -> list[object]:
    names = {name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())}
    names |= set(getattr(value, "__dict__", ()))
    return [getattr(value, name) for name in names - set(_SHARED) if hasattr(value, name)]

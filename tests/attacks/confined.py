"""Run a program that the kernel lets write below some directories only (Landlock).

    python confined.py DIRECTORY:DIRECTORY PROGRAM ARGUMENT…

Exit code 77: this kernel has no Landlock. Root is bound by it like anybody.
"""

import ctypes
import os
import sys

NOT_HERE = 77
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38
# Writing, removing, making of every kind, and cutting; reading and running are not handled, so they
# stay free. Bit 13 is moving between directories.
_WRITES = sum(1 << bit for bit in (1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def confine(directories: list[str]) -> None:
    """Take from this process, for good, the right to write elsewhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_WRITES)
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "no Landlock, or an older one")
    for directory in directories:
        fd = os.open(directory, os.O_PATH)
        rule = _PathBeneath(_WRITES, fd)
        if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule")
        os.close(fd)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


if __name__ == "__main__":
    try:
        confine(sys.argv[1].split(":"))
    except (OSError, AttributeError) as error:
        print(error, file=sys.stderr)
        sys.exit(NOT_HERE)
    os.execv(sys.argv[2], sys.argv[2:])

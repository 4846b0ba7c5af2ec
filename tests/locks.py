"""The locks: is everything installed named by its hash, and is any of it known to be vulnerable.

    python -m tests.locks          every entry is pinned and hashed, and none names a host
    python -m tests.locks audit    asks a source of advisories about every pin

The audit needs such a source, which not every machine reaches: where it cannot be asked this is
said, and nothing is known; that is no failure, and no clean bill either.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.processes import REPOSITORY

LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "tests/release/tools/requirements.txt",
    "benchmarks/peers/requirements.txt",
    "examples/requirements.txt",
    "tests/agents/litellm/requirements.txt",
    "tests/deploy/requirements.txt",
    "tests/e2e/api_clients/requirements.txt",
    "tests/wires/clients/requirements.txt",
)

_PIN = re.compile(
    r"(?P<pin>[A-Za-z0-9][A-Za-z0-9._-]*(?:\[[a-z0-9,_-]+\])?==[A-Za-z0-9.!+_-]+(?: ; [^;]+?)?)"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)"
)
_CLEAN, _VULNERABLE = 0, 1
_FEATURE = "audit-command"
"""uv calls its audit a preview; what it does is pinned with uv itself, in the lock."""


def problems(text: str) -> list[str]:
    """Return what is wrong with a lock, one sentence for each problem."""
    lines = enumerate(text.splitlines(), 1)
    found = [f"line {number}: names a host" for number, line in lines if "://" in line]
    found += [
        f"not one pin with its hashes: {entry[:80]}"
        for entry in _entries(text)
        if _PIN.fullmatch(entry) is None
    ]
    return found or ([] if _entries(text) else ["it has no entries"])


def pins(text: str) -> list[str]:
    """Return a lock's requirements without their hashes."""
    return [match["pin"] for entry in _entries(text) if (match := _PIN.fullmatch(entry))]


def _entries(text: str) -> list[str]:
    plain = "\n".join(line.partition("#")[0].rstrip() for line in text.splitlines())
    joined = re.sub(r" *\\\n\s*", " ", plain)
    return [line for line in joined.splitlines() if line.strip()]


def audit(text: str) -> int | None:
    """Ask about every pin of a lock, and print what is found.

    Returns:
        0 when nothing is known, 1 when something is; None when nobody could be asked.
    """
    # Markers quote with either sign; in TOML's literal strings double ones need no escape.
    members = "".join("  '{}',\n".format(pin.replace("'", '"')) for pin in pins(text))
    with tempfile.TemporaryDirectory() as directory:
        project = '[project]\nname = "pins"\nversion = "0"\nrequires-python = ">=3.11"\n'
        file = Path(directory, "pyproject.toml")
        file.write_text(f"{project}dependencies = [\n{members}]\n", encoding="utf-8")
        uv = str(Path(sys.executable).parent / "uv")
        command = [uv, "audit", "--preview-features", _FEATURE]
        code = subprocess.run(command, cwd=directory, check=False).returncode
    return code if code in {_CLEAN, _VULNERABLE} else None


def main(arguments: list[str]) -> int:
    """Check or audit every lock; return the exit code."""
    failed = False
    for name in LOCKS:
        text = (REPOSITORY / name).read_text("utf-8")
        if arguments != ["audit"]:
            for problem in problems(text):
                print(f"error: {name}: {problem}", file=sys.stderr)
                failed = True
            continue
        print(f"{name}: {len(pins(text))} pins", flush=True)
        code = audit(text)
        failed |= code == _VULNERABLE
        if code is None:
            print(f"warning: {name} was NOT audited: nobody could be asked", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

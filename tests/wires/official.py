"""Where the official clients of the wires' protocols are: `make wires-clients` installs them.

Both environments are pinned, in `tests/wires/node` and `tests/wires/clients`. A test that needs one
is skipped where it is absent, and fails there when `REQUIRE_SERVICES=1` (as in CI).
"""

from pathlib import Path

from tests.processes import REPOSITORY, lacking, program

NODE_DIR = REPOSITORY / "tests" / "wires" / "node"
PYTHON_DIR = REPOSITORY / "tests" / "wires" / "clients"
_PYTHON = REPOSITORY / ".venv" / "wires"
_HINT = "(`make wires-clients` installs them)"


def node() -> str:
    """Return the Node.js for scripts in `NODE_DIR`, whose packages are there; or end the test."""
    found = program("node")
    if not (NODE_DIR / "node_modules" / ".stamp").is_file():
        lacking(f"the npm packages of {NODE_DIR.relative_to(REPOSITORY)} {_HINT}")
    return found


def python() -> Path:
    """Return the Python whose environment has the official clients; or end the test."""
    if not (_PYTHON / ".stamp").is_file():
        lacking(f"the Python clients of the wires {_HINT}")
    return _PYTHON / "bin" / "python"

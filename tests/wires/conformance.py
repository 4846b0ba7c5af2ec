"""`make conformance`: every official client is run, and `docs/reference/conformance.md` is written.

The page says what passed. A test compares its clients, versions and exceptions with the code, so it
can only be out of date in its counts.

    python -m tests.wires.conformance            runs everything, and writes the page
    python -m tests.wires.conformance -k openai  only some clients; others keep their rows
    python -m tests.wires.conformance --lock     pins the newest versions of all clients
"""

import json
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.processes import REPOSITORY
from tests.wires.contract.clients import CLIENTS, Client
from tests.wires.contract.conversations import CONVERSATIONS
from tests.wires.official import NODE_DIR, PYTHON_DIR

PAGE = REPOSITORY / "docs" / "reference" / "conformance.md"
_CONTRACT = "tests/wires/contract/test_conversations.py"
_TESTS = {
    "spoken": "test_what_is_said_through_a_wire_is_what_the_messages_say",
    "read": "test_what_is_said_natively_is_read_through_a_wire",
    "cut": "test_a_stream_that_is_cut_ends_with_the_same_messages",
}


@dataclass(frozen=True)
class Package:
    """A package of an official client, and where its version is pinned."""

    wire: str
    name: str
    alias: str | None = None


PACKAGES = (
    Package("ai-sdk", "npm ai", "ai-5.0.34"),
    Package("ai-sdk", "npm ai", "ai-5.0.277"),
    Package("ai-sdk", "npm ai", "ai-6.0.41"),
    Package("ai-sdk", "npm ai", "ai-6.0.326"),
    Package("ai-sdk", "npm ai", "ai-7.0.173"),
    Package("ai-sdk", "npm @ai-sdk/react", "ai-react-5"),
    Package("ai-sdk", "npm @ai-sdk/react", "ai-react-6"),
    Package("ai-sdk", "npm @ai-sdk/react", "ai-react-7"),
    Package("openai", "PyPI openai"),
    Package("openai", "PyPI openai-agents"),
    Package("openai", "PyPI llm-comply"),
    Package("openai", "PyPI openresponses-types"),
    Package("openai", "npm openai"),
    Package("openai", "npm @ai-sdk/open-responses"),
    Package("ag-ui", "npm @ag-ui/client"),
    Package("ag-ui", "npm @ag-ui/core"),
    Package("ag-ui", "PyPI ag-ui-protocol"),
    Package("ag-ui", "PyPI ag-ui-validate"),
    Package("ag-ui", "PyPI pydantic-ai-slim"),
    Package("durable-streams", "npm @durable-streams/client"),
    Package("durable-streams", "PyPI durable-streams"),
)


def version_of(package: Package) -> str:
    """Return the version of a package that the locks pin."""
    kind, _, name = package.name.partition(" ")
    if kind == "npm":
        lock = json.loads((NODE_DIR / "package-lock.json").read_text("utf-8"))
        version: str = lock["packages"][f"node_modules/{package.alias or name}"]["version"]
        return version
    lock_text = (PYTHON_DIR / "requirements.txt").read_text("utf-8")
    found = re.search(rf"^{re.escape(name)}(?:\[[^\]]*\])?==(\S+)", lock_text, re.MULTILINE)
    assert found, f"{name} is not pinned"
    return found[1]


def packages_table() -> Iterator[str]:
    """Yield the lines of the table of packages."""
    yield "| protocol | package | version |"
    yield "|---|---|---|"
    for package in PACKAGES:
        yield f"| {package.wire} | {package.name} | {version_of(package)} |"


def exceptions_table() -> Iterator[str]:
    """Yield the lines of the table of what a protocol cannot say."""
    yield "| protocol | conversation | why |"
    yield "|---|---|---|"
    rows = {
        (client.wire, name, why)
        for client in CLIENTS
        for name, why in client.speaker.exceptions.items()
    }
    for wire, name, why in sorted(rows):
        yield f"| {wire} | {name} | {why} |"


def conversations_list() -> str:
    """Return the names of all conversations."""
    return ", ".join(CONVERSATIONS) + "."


Outcomes = dict[tuple[str, str], Counter[str]]


def results_table(outcomes: Outcomes, before: str) -> Iterator[str]:
    """Yield the lines of the table of what was run.

    Args:
        outcomes: How tests ended.
        before: The page as it was, for clients that were not run now.
    """
    yield "| protocol | client | spoken, and read natively | spoken natively, and read | cut |"
    yield "|---|---|---|---|---|"
    for client in CLIENTS:
        begin = f"| {client.wire} | {client.name} | "
        counts = [outcomes[str(client), test] for test in _TESTS]
        old = [line for line in before.splitlines() if line.startswith(begin)]
        if not any(counts) and old:
            yield old[0]
        else:
            yield f"{begin}{' | '.join(map(_shown, counts))} |"


def _shown(counts: Counter[str]) -> str:
    if not counts:
        return "none"
    text = f"{counts['passed']} passed"
    for kind in ("failed", "skipped"):
        if counts[kind]:
            text += f", {counts[kind]} {kind}"
    return text


def outcomes_in(report: Path) -> Outcomes:
    """Return how the tests of each client ended, from a report of pytest."""
    found: Outcomes = {(str(client), test): Counter() for client in CLIENTS for test in _TESTS}
    for case in ET.parse(report).iter("testcase"):
        name = case.get("name", "")
        for test, function in _TESTS.items():
            if name.startswith(f"{function}["):
                client = _client_of(name.partition("[")[2])
                kinds = {child.tag for child in case}
                kind = "failed" if kinds & {"failure", "error"} else "passed"
                found[str(client), test]["skipped" if "skipped" in kinds else kind] += 1
    return found


def _client_of(identifier: str) -> Client:
    return max(
        (client for client in CLIENTS if identifier.startswith(f"{client}-")),
        key=lambda client: len(str(client)),
    )


def filled(page: str, name: str, lines: Iterable[str]) -> str:
    """Return the page with a part of it made anew."""
    begin, end = f"<!-- conformance: {name} -->\n", "<!-- end of conformance -->"
    before, found, rest = page.partition(begin)
    assert found, name
    return before + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]


def main(arguments: list[str]) -> int:
    """Run all clients and write the page, or pin their newest versions; return the exit code."""
    if arguments == ["--lock"]:
        _lock()
        return 0
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "slow or not slow"]
        done = subprocess.run(
            [*command, f"--junitxml={report}", _CONTRACT, *arguments], cwd=REPOSITORY, check=False
        )
        outcomes = outcomes_in(report)
    page = PAGE.read_text("utf-8")
    page = filled(page, "results", results_table(outcomes, page))
    PAGE.write_text(refreshed(page), "utf-8")
    return done.returncode


def refreshed(page: str) -> str:
    """Return the page with all that is known without running anything."""
    page = filled(page, "packages", packages_table())
    page = filled(page, "exceptions", exceptions_table())
    return filled(page, "conversations", [conversations_list()])


# -- versions ---------------------------------------------------------------------------------


def _lock() -> None:
    """Pin the newest versions; packages with a version in their alias stay as they are."""
    manifest = json.loads((NODE_DIR / "package.json").read_text("utf-8"))
    names = [name for name, pin in manifest["dependencies"].items() if not pin.startswith("npm:")]
    wanted = [f"{name}@latest" for name in names if name != "zod"]
    subprocess.run(
        ["npm", "install", "--save-exact", "--package-lock-only", "--ignore-scripts", *wanted],
        cwd=NODE_DIR,
        check=True,
    )
    path = NODE_DIR / "package-lock.json"
    lock = json.loads(path.read_text("utf-8"))
    for package in lock["packages"].values():
        package.pop("funding", None)
    path.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n", "utf-8")
    requirements = PYTHON_DIR.relative_to(REPOSITORY) / "requirements.in"
    uv = Path(sys.executable).with_name("uv")
    options = ["--no-config", "--quiet", "--universal", "--python-version", "3.11", "--upgrade"]
    hidden = ["--generate-hashes", "--no-emit-index-url", "--no-emit-find-links"]
    output = str(requirements.with_suffix(".txt"))
    subprocess.run(
        [uv, "pip", "compile", requirements, *options, *hidden, "--output-file", output],
        cwd=REPOSITORY,
        check=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

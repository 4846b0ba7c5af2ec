"""The library in a program of one's own: it opens in a line, and the program always ends."""

import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

import pytest

from tests.processes import REPOSITORY, environment

DEADLINE_SECONDS = 60
"""How long a program may take that should end by itself, however busy the machine is."""

HEAD = """
    import asyncio, os, sys
    from pathlib import Path
    from bamboo_gateway.agents.demo import DemoAgent
    from bamboo_gateway.domain.callers import LOCAL_CALLER
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.sessions.commands import NewMessage, NewSession
    from bamboo_gateway.sessions.manager import SessionManager
    from bamboo_gateway.settings import Settings
    from bamboo_gateway.storage.factory import make_store

    async def main():
        settings = Settings(storage_url="jsonl:", data_dir=Path(sys.argv[1]))
        store = make_store(settings, SystemClock())
        await store.open()
"""

MANAGED = """
        async with SessionManager(store, {"default": DemoAgent()}, settings, SystemClock()) as it:
            await it.create_session(LOCAL_CALLER, NewSession(id="s"))
            await it.add_messages(LOCAL_CALLER, "s", [NewMessage("user", "kept")])
"""

WAYS = {
    "after the store was opened": """
        raise RuntimeError("it fails")
""",
    "within the manager": f"""{MANAGED}
            raise RuntimeError("it fails")
""",
    "after the manager": f"""{MANAGED}
        raise RuntimeError("it fails")
""",
    "without leaving the manager": """
        it = SessionManager(store, {"default": DemoAgent()}, settings, SystemClock())
        await it.__aenter__()
        await it.create_session(LOCAL_CALLER, NewSession(id="s"))
        await it.add_messages(LOCAL_CALLER, "s", [NewMessage("user", "kept")])
        raise RuntimeError("it fails")
""",
    "by sys.exit": f"""{MANAGED}
            sys.exit("it fails")
""",
}


def ended(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_program_that_fails_before_it_has_closed_the_store_ends(way: str, tmp_path: Path) -> None:
    program = dedent(HEAD) + indent(dedent(WAYS[way]), "    ") + "\nasyncio.run(main())\n"
    failed = ended(program, str(tmp_path))
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.strip().endswith("it fails")
    if way == "after the store was opened":
        return
    # What was acknowledged is there for the next who opens it.
    again = dedent(HEAD) + indent(
        dedent("""
        async with SessionManager(store, {"default": DemoAgent()}, settings, SystemClock()) as it:
            page = await it.messages(LOCAL_CALLER, "s")
            print(page.messages[0].decode())
        await store.aclose()
        """),
        "    ",
    )  # fmt: skip
    looked = ended(again + "\nasyncio.run(main())\n", str(tmp_path))
    assert looked.returncode == 0, looked.stderr
    assert '"content":"kept"' in looked.stdout

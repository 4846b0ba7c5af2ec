"""The library in a program of one's own: it opens in a line, and the program always ends."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import anyio
import pytest
import structlog
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, AgentConfigError, Turn
from bamboo_gateway.domain.errors import NotFound
from bamboo_gateway.domain.events import AgentEvent, Token
from bamboo_gateway.embedded import EmbeddedGateway, open_gateway
from bamboo_gateway.settings import SettingsError
from tests.processes import REPOSITORY, environment
from tests.support import prefork

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
    return prefork.run(arguments, environment(), REPOSITORY, timeout=DEADLINE_SECONDS, text=program)


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


# -- open_gateway ---------------------------------------------------------------------------------


def said(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


async def test_three_lines_open_a_gateway_and_close_it(tmp_path: Path) -> None:
    async with open_gateway(tmp_path, default_ttl_seconds=86_400) as gateway:
        session = await gateway.create_session("s", user_id="user-123", title="My Chat")
        await gateway.add_message("s", "Hello!")
    assert (session["ttl_seconds"], session["user_id"]) == (86_400, "user-123")
    async with open_gateway(tmp_path) as gateway:
        loaded = await gateway.get_session("s", include_messages=True)
        assert (loaded["title"], said(loaded["messages"])) == ("My Chat", ["Hello!"])


async def test_the_store_is_closed_also_when_the_block_fails(tmp_path: Path) -> None:
    async def fail() -> None:
        async with open_gateway(tmp_path) as gateway:
            await gateway.create_session("s")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    async with open_gateway(tmp_path) as gateway:  # and its lock is free
        assert [one["id"] for one in (await gateway.list_sessions()).sessions] == ["s"]


async def test_a_wrong_agent_opens_nothing(tmp_path: Path) -> None:
    with pytest.raises(AgentConfigError):
        async with open_gateway(tmp_path, agents={"default": "nonsense:"}):
            pass
    assert not await anyio.Path(tmp_path / "LOCK").exists()


async def test_a_storage_url_in_the_place_of_the_directory_creates_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r'write storage_url="memory:"'):
        async with open_gateway("memory:"):
            pass
    assert [one async for one in anyio.Path(tmp_path).iterdir()] == []


async def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="defualt_ttl_seconds"):
        async with open_gateway(storage_url="memory:", defualt_ttl_seconds=5):
            pass


LOGS = """
    import asyncio, logging, sys
    from bamboo_gateway.embedded import open_gateway

    logging.basicConfig(level=sys.argv[1], stream=sys.stderr)

    async def main():
        async with open_gateway(storage_url="memory:") as gateway:
            await gateway.create_session("s")
            (await gateway.connect_session("s", "c-1")).close()
        print("done")

    asyncio.run(main())
"""


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_the_log_goes_where_the_program_sends_it(level: str) -> None:
    done = ended(dedent(LOGS), level)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    told = "INFO:bamboo_gateway.sessions.streaming.hub:event='stream ended'" in done.stderr
    assert told == (level == "INFO"), done.stderr


class Echo(Agent):
    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        for word in turn.messages[-1].text.split():
            yield Token(word + " ")


@pytest.fixture(autouse=True)
def _log_of_this_process() -> Iterator[None]:
    """Leave the log of other tests as it was."""
    before, was_configured = structlog.get_config(), structlog.is_configured()
    yield
    structlog.reset_defaults()
    if was_configured:
        structlog.configure(**before)


@pytest.fixture
async def gateway() -> AsyncIterator[EmbeddedGateway]:
    async with open_gateway(storage_url="memory:", agents={"default": Echo()}) as running:
        yield running


async def test_a_turn_is_streamed_and_waited_for(gateway: EmbeddedGateway) -> None:
    await gateway.create_session("s")
    async with await gateway.connect_session("s", "conn-001") as events:
        assert events.connection_id == "conn-001"
        turn = await gateway.chat("s", "one two", wait_seconds=60)
        assert (turn["status"], turn["message"]["content"]) == ("completed", "one two ")
        types = []
        async for event in events:
            types.append(event["type"])
            if event["type"] == "complete":
                break
    assert types == [
        "message",
        "run_start",
        "session_updated",
        "token",
        "token",
        "message",
        "complete",
    ]
    assert said(await gateway.get_session_history("s")) == ["one two", "one two "]


async def test_what_an_agent_asks_is_answered_and_an_answer_made_again() -> None:
    async with open_gateway(storage_url="memory:", agents={"default": "demo:"}) as gateway:
        turn = await gateway.chat("s", "hi", options={"ask": True}, wait_seconds=60)
        (asked,) = await gateway.open_inputs("s")
        taken = await gateway.answer_inputs("s", {asked["request_id"]: {"approved": True}})
        await gateway.manager.wait_run(gateway._caller, "s", taken["run_id"], 60)
        assert await gateway.open_inputs("s") == []
        again = await gateway.regenerate("s")
        assert again["run_id"] not in {turn["run_id"], taken["run_id"]}


async def test_a_lost_stream_goes_on_where_it_was(gateway: EmbeddedGateway) -> None:
    await gateway.create_session("s")
    events = await gateway.connect_session("s", "conn-001")
    await gateway.append_event("s", {"type": "custom", "name": "first", "value": 1})
    assert (await anext(events))["name"] == "first"
    await gateway.disconnect_session("s", "conn-001")
    assert [event["type"] async for event in events] == ["goodbye"]
    await gateway.append_event("s", {"type": "custom", "name": "second", "value": 2})
    async with await gateway.reconnect_session("s", "conn-001") as again:
        assert (await anext(again))["name"] == "second"


async def test_a_user_sees_its_own_sessions_alone(gateway: EmbeddedGateway) -> None:
    await gateway.create_session("hers", user_id="ann")
    bob = gateway.for_user("bob")
    await bob.create_session("his")
    assert [one["id"] for one in (await bob.list_sessions()).sessions] == ["his"]
    with pytest.raises(NotFound):
        await bob.get_session("hers")


async def test_the_rest_of_a_sessions_life(gateway: EmbeddedGateway, tmp_path: Path) -> None:
    await gateway.create_session("s", title="Long", session_type="scheduled")
    for text in ("a", "b", "c"):
        await gateway.add_message("s", text)
    changed = await gateway.update_session("s", title="Longer", metadata={"x": 1})
    assert (changed["title"], changed["metadata"]) == ("Longer", {"x": 1})
    # Export and import.
    assert "# Longer" in await gateway.export_session("s")
    size = await gateway.export_session_to_file("s", tmp_path / "s.json", "json")
    written = (tmp_path / "s.json").read_bytes()
    assert len(written) == size
    copy = await gateway.import_session(written)
    assert copy["id"] != "s"
    # Fork and merge.
    fork = await gateway.fork_session("s", from_message_index=1, new_id="f", new_name="Fork")
    assert (fork["title"], fork["message_count"]) == ("Fork", 2)
    await gateway.add_message("f", "d")
    await gateway.merge_sessions("f", "s")
    assert said(await gateway.get_session_history("s")) == ["a", "b", "c", "d"]
    assert (await gateway.get_session_branch_tree("f"))["session_id"] == "s"
    # Resume and statistics.
    await gateway.save_summary("s", "They spoke.")
    assert (await gateway.load_summary("s"))["summary"] == "They spoke."
    assert "They spoke." in (await gateway.build_resume_message("s"))["content"]
    assert (await gateway.calculate_statistics("s"))["user_messages"] == 4
    assert (await gateway.generate_report("s"))["statistics"]["total_messages"] == 4
    assert (await gateway.get_extension_data("s"))["custom"] == {}
    # Archive.
    await gateway.archive_session("f")
    done = await gateway.bulk_archive_sessions(["s", "nobody"])
    assert [one["session_id"] for one in done["archived"]] == ["s"]
    assert [one["code"] for one in done["failed"]] == ["session-not-found"]
    listed = (await gateway.list_archived_sessions()).sessions
    assert {one["session"]["id"] for one in listed} == {"f", "s"}
    await gateway.restore_archived_session("s")
    # Close, reopen, clean, delete.
    assert (await gateway.close_session("s"))["state"] == "closed"
    assert (await gateway.reopen_session("s", ttl_seconds=60))["ttl_seconds"] == 60
    assert (await gateway.cleanup_expired_data())["session_ids"] == []
    later = datetime.now(UTC) + timedelta(days=1)
    assert "s" in (await gateway.force_cleanup(later, dry_run=True))["session_ids"]
    await gateway.delete_session("s")
    assert (await gateway.get_or_create_session("s"))["message_count"] == 0

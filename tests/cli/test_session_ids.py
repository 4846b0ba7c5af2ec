"""A prefix of a session's id is completed if only one session has it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from bamboo_gateway.cli.session_ids import is_generated
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.ids import IdMaker, derived_session_id
from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def create(gateway: Gateway, session: str | None = None, **fields: object) -> str:
    body = fields if session is None else {"id": session, **fields}
    made = gateway.call("POST", "/sessions", json=body)
    gateway.call("POST", f"/sessions/{made['id']}/messages", json={"role": "user", "content": "x"})
    return str(made["id"])


def ids(gateway: Gateway) -> set[str]:
    return {one["id"] for one in gateway.call("GET", "/sessions?limit=1000")["sessions"]}


LONG = "long-name-of-a-session"
# What a command needs, and what undoes it: each finds the session open, whichever ran before.
BEFORE = {"sessions reopen": "close", "restore": "archive"}
AFTER = {"sessions close": "reopen", "archive": "restore"}


@pytest.fixture(scope="module", autouse=True)
def long_name(gateway: Gateway) -> str:
    create(gateway, "other")
    create(gateway, LONG, user_id="ann", title="Long")
    gateway.call("POST", f"/sessions/{LONG}/fork", json={"new_id": "child"})
    return LONG


@pytest.mark.parametrize(
    "command",
    [
        ["sessions", "show", "long"],
        ["sessions", "close", "long"],
        ["sessions", "reopen", "long"],
        ["tail", "long", "--after", "0", "--until-complete"],
        ["export", "long"],
        ["tree", "long"],
        ["resume", "long"],
        ["stats", "long"],
        ["report", "long"],
        ["extensions", "long"],
        ["share", "list", "long"],
        ["share", "create", "long", "--user", "bob"],
        ["fork", "long", "--new-id", "forked"],
        ["sessions", "list", "--parent-id", "long-na"],
        ["merge", "long-na", "other"],
        ["merge", "other", "long-na"],
        ["archive", "long-na"],
        ["restore", "long-na"],
    ],
    ids=" ".join,
)
def test_a_unique_prefix_is_enough(gateway: Gateway, url: str, command: Sequence[str]) -> None:
    name = " ".join(word for word in command if not word.startswith("long"))
    if name in BEFORE:
        gateway.call("POST", f"/sessions/{LONG}/{BEFORE[name]}")
    ended = bamboo(*command, url=url)
    assert (ended.returncode, ended.stderr) == (0, "")
    if name in AFTER:
        gateway.call("POST", f"/sessions/{LONG}/{AFTER[name]}")


def test_the_whole_id_is_what_is_shown(gateway: Gateway, url: str, tmp_path: Path) -> None:
    create(gateway, "shown-in-full")
    shown = json.loads(bamboo("sessions", "show", "shown", "--json", url=url).stdout)
    assert shown["id"] == "shown-in-full"
    target = tmp_path / "bug.zip"
    assert bamboo("diagnose", "shown-in", "-o", str(target), url=url).returncode == 0
    with Terminal("sessions", "delete", "shown", url=url) as terminal:
        terminal.until("Delete shown-in-full for good?")
        terminal.type("y\n")
        terminal.until("deleted shown-in-full")
        assert terminal.exit_code() == 0


def test_an_existing_id_is_never_completed_to_a_longer_one(gateway: Gateway, url: str) -> None:
    create(gateway, "job-1")
    create(gateway, "job-10")
    shown = json.loads(bamboo("sessions", "show", "job-1", "--json", url=url).stdout)
    assert shown["id"] == "job-1"


def test_an_ambiguous_prefix_lists_the_whole_ids_and_changes_nothing(
    gateway: Gateway, url: str
) -> None:
    names = sorted(create(gateway, f"twin-{n}-" + "x" * 110) for n in range(5))
    for command in (["sessions", "show"], ["sessions", "delete", "--yes"]):
        ended = bamboo(*command, "twin", url=url)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert all(name in line for name in names)
    ended = bamboo("archive", "twin", "twin-0", url=url)
    assert ended.returncode == 1
    assert "(ambiguous-id)" in ended.stderr
    assert ids(gateway) & set(names) == set(names[1:])


def test_the_list_of_candidates_is_bounded(gateway: Gateway, url: str) -> None:
    for n in range(8):
        create(gateway, f"many-{n}")
    ended = bamboo("sessions", "show", "many", url=url)
    assert ended.returncode == 2
    assert ended.stderr.count("many-") == 5
    assert "and more" in ended.stderr


def test_archived_and_shared_sessions_are_found_too(gateway: Gateway, url: str) -> None:
    gateway.call("POST", f"/sessions/{create(gateway, 'put-away')}/archive")
    assert bamboo("export", "put", url=url).returncode == 0


def test_a_bulk_command_takes_whole_ids_and_prefixes_together(gateway: Gateway, url: str) -> None:
    for name in ("bulk-one-x", "bulk-two-x"):
        create(gateway, name)
    done = bamboo("archive", "bulk-one", "bulk-two-x", "bulk-none", url=url)
    assert done.returncode == 1
    assert "archived bulk-one-x" in done.stdout
    assert "archived bulk-two-x" in done.stdout
    assert "bulk-none: " in done.stderr


def test_generated_ids_are_distinguished_from_chosen_ones() -> None:
    assert is_generated(IdMaker().make("s-", SystemClock().now_ms()))
    assert is_generated(derived_session_id("caller", "key"))
    assert not is_generated("job-10")
    assert not is_generated("s-1")


def test_chat_completes_the_prefix_of_a_generated_id(gateway: Gateway, url: str) -> None:
    session = create(gateway)
    ended = bamboo("chat", "hi", "-s", session[:-4], "-o", "delay_ms=0", url=url)
    assert ended.returncode == 0
    assert f"session {session}" in ended.stderr
    assert len(gateway.call("GET", f"/sessions/{session}/messages")["messages"]) > 1


def test_chat_begins_a_session_whose_chosen_id_is_a_prefix_of_another(
    gateway: Gateway, url: str
) -> None:
    create(gateway, "topic-10")
    assert bamboo("chat", "hi", "-s", "topic-1", "-o", "delay_ms=0", url=url).returncode == 0
    assert len(gateway.call("GET", "/sessions/topic-10/messages")["messages"]) == 1
    assert gateway.call("GET", "/sessions/topic-1")["id"] == "topic-1"


def test_deleting_with_yes_completes_only_generated_ids(gateway: Gateway, url: str) -> None:
    generated = create(gateway)
    assert bamboo("sessions", "delete", "--yes", generated[:-4], url=url).returncode == 0
    create(gateway, "batch-10")
    refused = bamboo("sessions", "delete", "--yes", "batch-1", url=url)
    assert refused.returncode == 2
    assert "batch-10" in refused.stderr
    assert generated not in ids(gateway)
    assert "batch-10" in ids(gateway)
    gateway.call("POST", "/sessions/batch-10/archive")
    assert bamboo("archive", "--delete", "--yes", "batch-1", url=url).returncode == 2
    assert gateway.call("GET", "/archive/batch-10")["session"]["id"] == "batch-10"

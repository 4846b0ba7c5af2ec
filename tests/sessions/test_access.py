"""Who may do what is decided where heads are given out, so that no verb can forget to ask."""

import ast
from pathlib import Path

import pytest

import bamboo_gateway.sessions
from bamboo_gateway.api.frames import NATIVE
from bamboo_gateway.domain.callers import GATEWAY, LOCAL_CALLER, Caller, Right
from bamboo_gateway.domain.errors import BambooError, Forbidden, NotFound, SessionExists
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.access import (
    Need,
    check_access,
    own,
    owner_of_copy,
    scoped,
    scoped_search,
)
from bamboo_gateway.sessions.commands import (
    Chat,
    NewMessage,
    NewSession,
    SearchQuery,
    SessionQuery,
    StreamRequest,
)
from tests.support.gateways import ME, gateway

ALICE = Caller("user-alice", "alice")
BOB = Caller("user-bob", "bob")
READ: frozenset[Right] = frozenset({"read"})
HERS = SessionHead("s", 1, seq=1, user_id="alice")
NOBODYS = SessionHead("s", 1, seq=1)

_DOORS = {
    "registry.py": {"load", "query", "search"},
    "reloader.py": {"load"},
    "history.py": {"load"},
    "lifecycle/compaction.py": {"load"},
    # Brings a channel up to what another process has stored; its readers were admitted before.
    "streaming/follower.py": {"load"},
    # Looks again at a head that the registry has listed.
    "erasure.py": {"load"},
    # Looks at everybody's sessions; `Webhook.is_about` says which webhooks are told of one.
    "webhooks/feed.py": {"load", "query"},
    "webhooks/courier.py": {"load"},
    # Which sessions name a file: for what reads it, which asks `access` for each, and the sweep.
    "file_shelf/shelf.py": {"load"},
    "files/sweep.py": {"load"},
    # The gateway itself gives titles: a session that somebody has just spoken in.
    "runs/titling.py": {"load"},
}
"""Where the store is asked for heads: by the registry, and for what the gateway does by itself."""


_FILES_MIN = 30
"""Fewer mean that this test looks in the wrong place, and not that the application has shrunk."""


def test_only_the_registry_asks_the_store_for_heads():
    """A command that asks the store itself would pass by the check."""
    (folder,) = bamboo_gateway.sessions.__path__
    files = {file.relative_to(folder).as_posix(): file for file in Path(folder).rglob("*.py")}
    assert len(files) >= _FILES_MIN, f"only {len(files)} modules found in {folder}"
    assert _DOORS.keys() <= files.keys()
    for name, file in files.items():
        asked = {
            node.func.attr
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"load", "query", "search"}
            and ast.unparse(node.func.value).endswith("store")
        }
        assert asked <= _DOORS.get(name, set()), name


@pytest.mark.parametrize(
    ("caller", "head", "need", "refusal"),
    [
        (ALICE, HERS, "own", None),
        (ALICE, HERS, "make", None),
        (BOB, HERS, "own", NotFound),
        (BOB, HERS, "read", NotFound),
        (BOB, HERS, "make", SessionExists),
        (ALICE, NOBODYS, "read", NotFound),
        (LOCAL_CALLER, HERS, "own", None),
        (GATEWAY, HERS, "own", None),
        # Tickets: the one session, to read, and of what their holder may see.
        (Caller("t", "alice", READ, "s"), HERS, "read", None),
        (Caller("t", "alice", READ, "s"), HERS, "own", Forbidden),
        (Caller("t", "alice", READ, "other"), HERS, "read", NotFound),
        (Caller("t", "bob", READ, "s"), HERS, "read", NotFound),
        (Caller("t", None, READ, "s"), HERS, "read", None),
        (Caller("t", None, READ, "s"), HERS, "own", Forbidden),
        (Caller("t", None, READ, "other"), HERS, "read", NotFound),
        (Caller("t", None, READ, "other"), HERS, "make", SessionExists),
    ],
)
def test_who_may_do_what(
    caller: Caller, head: SessionHead, need: Need, refusal: type[BambooError] | None
):
    if refusal is None:
        check_access(caller, head, need, 0)
        return
    with pytest.raises(refusal):
        check_access(caller, head, need, 0)


def test_a_user_creates_and_lists_its_own_and_the_operator_everybodys():
    assert own(ALICE, NewSession()).user_id == "alice"
    assert own(ME, NewSession(user_id="bob")).user_id == "bob"
    with pytest.raises(Forbidden):
        own(ALICE, NewSession(user_id="bob"))
    assert (owner_of_copy(ALICE, "bob"), owner_of_copy(ME, "bob")) == ("alice", "bob")
    narrowed = scoped(ALICE, SessionQuery(title_contains="x"))
    assert narrowed is not None
    assert (narrowed.user_id, narrowed.title_contains) == ("alice", "x")
    assert scoped(ALICE, SessionQuery(user_id="bob")) is None
    assert scoped(ME, SessionQuery()) == SessionQuery()
    with pytest.raises(Forbidden):
        scoped(Caller("t", "alice", READ, "s"), SessionQuery())
    found = SearchQuery(("x",))
    assert scoped_search(ALICE, found) == SearchQuery(("x",), user_id="alice")
    assert scoped_search(ALICE, SearchQuery(("x",), user_id="bob")) is None
    assert scoped_search(ME, found) == found
    with pytest.raises(Forbidden):
        scoped_search(Caller("t", "alice", READ, "s"), found)


async def test_another_user_does_not_even_bring_a_session_into_memory():
    """Else its place could be taken from others, or kept, by asking for what is not there."""
    async with gateway(max_active_sessions=1) as gate:
        manager = gate.manager
        await manager.create_session(ALICE, NewSession(id="hers"))
        await manager.create_session(BOB, NewSession(id="his"))
        his = gate.live("his")
        for verb in (
            manager.connect(BOB, "hers", StreamRequest(), NATIVE),
            manager.chat(BOB, Chat(NewSession(id="hers"), [NewMessage("user", "hi")])),
            manager.cancel_session(BOB, "hers"),
            manager.delete_session(BOB, "hers"),
        ):
            with pytest.raises(NotFound, match="No session 'hers'"):
                await verb
        assert gate.live("his") is his
        used = his.last_used
        gate.clock.advance(5)
        with pytest.raises(NotFound):
            await manager.cancel_session(ALICE, "his")
        assert his.last_used == used


async def test_an_expired_session_is_gone_for_its_owner_and_unknown_to_others():
    async with gateway() as gate:
        await gate.manager.create_session(ALICE, NewSession(id="s", ttl_seconds=1))
        gate.clock.advance(10)
        with pytest.raises(BambooError, match="time to live"):
            await gate.manager.get_session(ALICE, "s")
        with pytest.raises(NotFound):
            await gate.manager.get_session(BOB, "s")


async def test_the_store_finds_a_users_sessions_by_index_and_never_walks_the_others():
    async with gateway() as gate:
        for number in range(5):
            await gate.manager.create_session(ALICE, NewSession(id=f"a{number}"))
        await gate.manager.create_session(BOB, NewSession(id="b"))
        page = await gate.manager.list_sessions(BOB, SessionQuery())
        assert ([view["id"] for view in page.sessions], page.total) == (["b"], 1)
        first = await gate.manager.list_sessions(ALICE, SessionQuery(limit=2))
        rest = await gate.manager.list_sessions(
            ALICE, SessionQuery(limit=10, cursor=first.next_cursor)
        )
        seen = [view["id"] for view in [*first.sessions, *rest.sessions]]
        assert sorted(seen) == [f"a{number}" for number in range(5)]
        assert first.total == 5

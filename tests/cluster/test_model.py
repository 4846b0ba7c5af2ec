"""The protocol of replicas, explored exhaustively within bounds, whole and with each rule removed.

`tests/cluster/model/__init__.py` describes the protocol. Run with `-s` to see the number of states,
and the trace to what breaks without each rule.
"""

import pytest

from tests.cluster.model.rules import Bounds, Rules, Wanted
from tests.cluster.model.search import explore, first_state, is_quiet

CHAT = Wanted("c", "chat")
OTHER_CHAT = Wanted("e", "chat")
KEYED = Wanted("c", "chat", is_keyed=True)
INTERRUPT = Wanted("i", "interrupt")
POST = Wanted("p", "post")
CANCEL = Wanted("x", "cancel", run="r")
DELETE = Wanted("d", "delete")
ARCHIVE = Wanted("a", "archive")
CHAT_AFTER_DELETE = Wanted("e", "chat", after="d")

BOUNDS = {
    "a write beside a run": Bounds((POST,), tokens=3, with_run=True, losses=1, stops=1),
    "a chat sent again": Bounds((KEYED,), losses=1, kills=1, outages=1),
    "two chats, one interrupts": Bounds((KEYED, INTERRUPT), tokens=0, kills=1),
    "an executor stopped and continued": Bounds((CHAT,), with_run=True, stops=1, losses=1),
    "a cancelled run and its successor": Bounds((CANCEL, CHAT), tokens=0, with_run=True, kills=1),
    "a cancellation whose answer is lost": Bounds((CANCEL,), with_run=True, losses=1, kills=1),
    "a chat and a deletion": Bounds((KEYED, DELETE), tokens=0, losses=1, kills=1),
    "deleted and created again": Bounds(
        (DELETE, CHAT_AFTER_DELETE), with_run=True, losses=1, stops=1
    ),
    "archived meanwhile": Bounds((POST, ARCHIVE), tokens=0, with_run=True, losses=1, kills=1),
    "heartbeats, a stop and an outage": Bounds(
        (), has_clock=True, stops=1, outages=1, with_run=True
    ),
    "heartbeats, two stops and an outage": Bounds(
        (), tokens=0, has_clock=True, stops=2, outages=1, with_run=True
    ),
    "heartbeats, outages in a row": Bounds(
        (), tokens=0, has_clock=True, outages=2, silent_rounds=4, with_run=True
    ),
    "a rolling restart": Bounds((CHAT,), tokens=0, terms=2, spawns=1, with_run=True),
    "a restart and a lost answer": Bounds((CHAT,), tokens=0, terms=1, losses=1, with_run=True),
    "a row removed in a long stop": Bounds(
        (CHAT,), tokens=0, stops=1, reaps=1, losses=1, with_run=True
    ),
    "a loop that hangs": Bounds((CHAT,), hangs=1, with_run=True),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_protocol_holds_in_every_state(name: str) -> None:
    """R1, R2, R3, R5, R8, R9."""
    found = explore(BOUNDS[name])
    print(f"{name}: {found}")
    assert not found.problem, str(found)


WIDE = {
    "a write and an interruption": Bounds((POST, INTERRUPT), with_run=True, losses=1),
    "a chat sent again": Bounds((KEYED,), losses=2, kills=1, outages=1),
    "two chats, one interrupts": Bounds((KEYED, INTERRUPT), kills=1),
    "an executor stopped, another killed": Bounds(
        (CHAT,), tokens=0, with_run=True, stops=1, kills=1
    ),
    "a cancelled run and its successor": Bounds((CANCEL, CHAT), with_run=True, losses=1),
    "a deletion between two chats": Bounds((KEYED, DELETE, OTHER_CHAT), tokens=0, losses=1),
    "deleted and created at once": Bounds((DELETE, OTHER_CHAT), with_run=True, losses=1, stops=1),
    "heartbeats": Bounds((), tokens=0, has_clock=True, stops=1, outages=1, kills=1, with_run=True),
    "a rolling restart": Bounds((CHAT,), tokens=0, terms=2, spawns=1, losses=1, with_run=True),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", WIDE)
def test_the_protocol_holds_within_wide_bounds(name: str) -> None:
    found = explore(WIDE[name])
    print(f"{name}: {found}")
    assert not found.problem, str(found)


BROKEN = {
    "fence": (
        Bounds((CHAT, OTHER_CHAT), tokens=0),
        "run e is started twice",
    ),
    "epoch_fence": (
        Bounds((DELETE, CHAT_AFTER_DELETE), with_run=True),
        "a token of run r in a log where it is not active",
    ),
    "delete_fence": (
        Bounds((CHAT, Wanted("d", "delete", after="c"), CHAT_AFTER_DELETE), tokens=0, losses=1),
        "a session was deleted that nobody wanted to delete",
    ),
    "tombstone": (
        Bounds((CHAT, DELETE), tokens=0, losses=1),
        "request 'c' was done twice",
    ),
    "gone_keys": (Bounds((KEYED, DELETE), tokens=0), "request 'c' was done twice"),
    "new_epochs tombstone": (
        Bounds((DELETE, CHAT_AFTER_DELETE), with_run=True),
        "position 1-0 was given to two events",
    ),
    "look_up": (
        Bounds((POST,), with_run=True, losses=1),
        "token 0 of run r stands at place 1",
    ),
    "unknown_stays": (
        Bounds((CHAT, DELETE), with_run=True, losses=1),
        "request 'c' was done twice",
    ),
    "packed_is_unknown": (
        Bounds((POST, ARCHIVE), tokens=0, with_run=True, losses=1),
        "request 'a' was refused, and it is stored",
    ),
    "unknown_is_asked": (
        Bounds((POST,), with_run=True, losses=1),
        "request 'p' was acknowledged and is not stored",
    ),
    "keys_stored": (Bounds((KEYED,), tokens=0), "run c is queued twice"),
    "decide_again": (
        Bounds((CANCEL,), with_run=True),
        "run r speaks on behind the wish to cancel it",
    ),
    "keep_drafts": (
        Bounds((POST,), with_run=True),
        "run r is done, and 1 of its tokens are lost",
    ),
    "lock_third": (
        Bounds((POST,), tokens=3, with_run=True),
        "B was refused 3 times in a row",
    ),
    "lock_timeout": (
        Bounds((POST,), tokens=3, with_run=True, kills=1),
        "no quiet end can be reached",
    ),
    "start_after_answer": (
        Bounds((CHAT, OTHER_CHAT), tokens=0),
        "the agent of run e was started 2 times",
    ),
    "never_again": (Bounds((), with_run=True, kills=1), "run r is started twice"),
    "second_check": (
        Bounds((), with_run=True, stops=1),
        "run r was closed, and A, its executor, is well",
    ),
    "judged_counter": (
        Bounds((), tokens=0, has_clock=True, stops=1, with_run=True),
        "run r was closed, and A, its executor, is well",
    ),
    "start_needs_row": (
        Bounds((CHAT,), stops=1, reaps=1),
        "run c was closed, and A, its executor, is well",
    ),
    "new_row": (Bounds((CHAT,), stops=1, reaps=1), "no quiet end can be reached"),
    "own_renewals": (
        Bounds((), tokens=0, has_clock=True, outages=1, with_run=True),
        "run r was closed, and A, its executor, is well",
    ),
    "quick_retry": (
        Bounds((), tokens=0, has_clock=True, outages=1, with_run=True),
        "run r was closed, and A, its executor, is well",
    ),
    "paced": (
        Bounds((), tokens=0, has_clock=True, with_run=True),
        "run r was closed, and A, its executor, is well",
    ),
    "new_ids": (
        Bounds((), with_run=True, terms=1, spawns=1),
        "run r was closed, and A, its executor, is well",
    ),
    "rows_last": (
        Bounds((), with_run=True, terms=1),
        "run r was closed, and A, its executor, is well",
    ),
    "tidy": (Bounds((CHAT,), tokens=0, losses=1, outages=1), "no quiet end can be reached"),
    "tidy_waits": (
        Bounds((CHAT,), tokens=0, losses=1),
        "run c was closed while A waits to start it",
    ),
    "any_starts": (
        Bounds((CHAT,), tokens=0, with_run=True, kills=1),
        "no quiet end can be reached",
    ),
    "wish_is_stored": (
        Bounds((CANCEL,), with_run=True),
        "run r ended as done, though its cancellation was acknowledged",
    ),
    "loop_watched": (Bounds((), with_run=True, hangs=1), "no quiet end can be reached"),
}


@pytest.mark.parametrize("names", BROKEN)
def test_without_a_rule_the_search_finds_what_breaks(names: str) -> None:
    bounds, problem = BROKEN[names]
    whole = explore(bounds)
    assert not whole.problem, str(whole)
    found = explore(bounds, Rules().without(*names.split()))
    print(f"without {names}: {found}")
    assert problem in found.problem, str(found)
    assert found.trace


def test_each_rule_is_removed_by_a_test() -> None:
    tried = {name for names in BROKEN for name in names.split()}
    assert tried == set(Rules.__dataclass_fields__)


@pytest.mark.parametrize(("outages", "rounds"), [(1, 3), (2, 4)])
def test_silence_takes_two_rounds_more_than_there_are_outages_in_a_row(
    outages: int, rounds: int
) -> None:
    """With one round fewer, a replica that is well is taken for dead."""

    def searched(silent_rounds: int) -> str:
        bounds = Bounds(
            (),
            tokens=0,
            has_clock=True,
            outages=outages,
            silent_rounds=silent_rounds,
            with_run=True,
        )
        return explore(bounds).problem

    assert not searched(rounds)
    assert searched(rounds - 1) == "run r was closed, and A, its executor, is well"


def test_a_search_ends_at_its_limit() -> None:
    with pytest.raises(MemoryError, match="more than 100 states"):
        explore(Bounds((POST,), tokens=3, with_run=True), states_max=100)


def test_the_first_state_with_a_run_is_not_quiet() -> None:
    assert is_quiet(first_state(Bounds(())))
    assert not is_quiet(first_state(Bounds((), with_run=True)))

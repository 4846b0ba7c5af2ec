"""Who is taken for dead, by what the renewals have seen."""

import pytest

from bamboo_gateway.storage.sql.postgresql.judgement import Judgement

ROUNDS = 4


def silent(rounds: int, counter: int = 7) -> Judgement:
    """Return the judgement after a first look at `x` and this many rounds of its silence."""
    judgement = Judgement(ROUNDS)
    for _ in range(rounds + 1):
        judgement.renewed({"x": counter}, ())
    return judgement


def test_an_executor_is_dead_after_four_rounds_of_silence_and_not_after_three() -> None:
    assert not silent(ROUNDS - 1).is_dead("x")
    judgement = silent(ROUNDS)
    assert judgement.is_dead("x")
    assert judgement.judged("x") == 7
    assert judgement.dead == ["x"]


def test_one_that_was_dead_and_moves_lives() -> None:
    judgement = silent(ROUNDS)
    judgement.renewed({"x": 8}, ())
    assert judgement.judged("x") is None


def test_a_counter_that_went_back_has_moved() -> None:
    """A server that crashed may have lost the last renewals."""
    judgement = silent(ROUNDS - 1)
    judgement.renewed({"x": 5}, ())
    judgement.renewed({"x": 5}, ())
    assert not judgement.is_dead("x")


@pytest.mark.parametrize("before", range(ROUNDS + 1))
def test_a_failed_renewal_of_ones_own_sets_all_that_was_counted_back(before: int) -> None:
    """After an outage of the database nobody is dead."""
    judgement = silent(before)
    judgement.failed()
    assert not judgement.is_dead("x")
    for _ in range(ROUNDS - 1):
        judgement.renewed({"x": 7}, ())
        assert not judgement.is_dead("x")
    judgement.renewed({"x": 7}, ())
    assert judgement.is_dead("x")


def test_looks_in_between_count_no_silence() -> None:
    judgement = silent(ROUNDS - 1)
    for _ in range(10):
        judgement.renewed({"x": 7}, (), is_round=False)
    assert not judgement.is_dead("x")


def test_a_process_of_this_machine_that_has_ended_is_dead_at_once() -> None:
    judgement = Judgement(ROUNDS)
    judgement.renewed({"x": 3, "y": 3}, ("x",))
    assert judgement.judged("x") == 3
    assert judgement.judged("y") is None
    judgement.failed()
    assert judgement.is_dead("x"), "an outage does not bring it back"


def test_one_without_a_row_is_dead_when_a_look_that_began_later_does_not_find_it() -> None:
    """A process that has just begun is not dead because the last look was before."""
    judgement = Judgement(ROUNDS)
    judgement.renewed({}, ())
    assert not judgement.is_dead("new")
    # This one may have begun before it was asked.
    judgement.renewed({}, ())
    assert not judgement.is_dead("new")
    judgement.renewed({"new": 1}, ())
    assert not judgement.is_dead("new")
    assert not judgement.is_dead("old")
    judgement.renewed({"new": 1}, ())
    judgement.renewed({"new": 1}, ())
    assert judgement.judged("old") == -1


def test_one_whose_row_is_removed_stays_dead() -> None:
    judgement = silent(ROUNDS)
    judgement.renewed({}, ())
    assert judgement.judged("x") == -1


def test_one_that_a_statement_knows_to_have_no_row_is_dead_at_once() -> None:
    judgement = Judgement(ROUNDS)
    judgement.renewed({"x": 1}, ())
    judgement.note_gone(["x", "z"])
    assert judgement.judged("z") == -1
    assert judgement.judged("x") is None, "it has a row, as the last look saw"


def test_what_is_asked_of_unknown_ones_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from bamboo_gateway.storage.sql.postgresql import judgement as module

    monkeypatch.setattr(module, "_MISSING_MAX", 10)
    judgement = Judgement(ROUNDS)
    for number in range(1000):
        judgement.is_dead(f"x{number}")
    assert len(judgement._missing) == 10

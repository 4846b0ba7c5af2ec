"""The stored form of heads: earlier versions read it, too."""

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.sessions import ActiveRun, SessionHead


def test_a_run_is_stored_as_before_where_no_processes_share_the_store() -> None:
    """An earlier version opens what a later one has left, and knows these members alone."""
    head = SessionHead("s", 5, active=ActiveRun("r", "default", 1, 0, 3))
    stored = codec.decode(codec.encode(head.to_json()))["active"]
    assert stored == {
        "run_id": "r",
        "agent": "default",
        "start_seq": 1,
        "before_seq": 0,
        "started_at": 3,
        "model": None,
    }


def test_who_executes_a_run_and_how_it_is_to_end_are_stored() -> None:
    wish = {"type": "cancelled", "run_id": "r"}
    run = ActiveRun("r", "default", 1, 0, 3, executor="e", wish=wish)
    head = SessionHead("s", 5, active=run)
    assert SessionHead.of(codec.decode(codec.encode(head.to_json()))).active == run

"""URLs are made of what the core says, also of what an earlier version kept in a log."""

import json
from typing import Any

import pytest

from bamboo_gateway.api.urls import chat_answer, run_answer, session_answer

SESSION = {"id": "s", "position": "1-9", "stream_after": "1-4", "notes": []}
RUN: dict[str, Any] = {
    "run_id": "r",
    "session_id": "s",
    "position": "1-4",
    "error": None,
    "cancel_requested": True,
}
TURN = {"session_id": "s", "run_id": "r", "position": "1-4"}
OF_RUN = "/api/v1/stream/s?after=1-4&run_id=r"


def members(value: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(value.items())


def test_a_session_has_its_stream_url_in_its_place() -> None:
    assert members(session_answer(SESSION)) == [
        ("id", "s"),
        ("position", "1-9"),
        ("stream_url", "/api/v1/stream/s?after=1-4"),
        ("notes", []),
    ]


def test_a_run_has_its_stream_url_behind_its_own_members() -> None:
    assert list(run_answer(RUN, "")) == [
        "run_id",
        "session_id",
        "position",
        "error",
        "stream_url",
        "cancel_requested",
    ]
    assert run_answer(RUN, "")["stream_url"] == OF_RUN
    assert members(chat_answer(TURN, ""))[-1] == ("stream_url", OF_RUN)


KEPT = pytest.mark.parametrize(
    ("answer", "view"), [(session_answer, SESSION), (run_answer, RUN), (chat_answer, TURN)]
)


@KEPT
def test_an_answer_that_was_kept_with_its_url_stays_as_it_was(answer: Any, view: Any) -> None:
    """An idempotency key's first answer may be older than this version."""
    kept = json.dumps(answer(view, ""))
    assert json.dumps(answer(json.loads(kept), "")) == kept


@KEPT
def test_an_answer_that_was_kept_with_its_url_gets_the_prefix_of_the_request_that_asks(
    answer: Any, view: Any
) -> None:
    kept = json.dumps(answer(view, ""))
    asked = json.dumps(answer(view, "/a/b"))
    assert '"/a/b/api/v1/stream/s?' in asked
    assert json.dumps(answer(json.loads(kept), "/a/b")) == asked

"""`GET /search` and `GET /sessions?q=` over HTTP."""

from typing import Any

import httpx
import pytest

from tests.api.serving import refused


def say(api: httpx.Client, session_id: str, *texts: str, **fields: Any) -> None:
    api.post("/sessions", json={"id": session_id, "title": f"about {session_id}"})
    messages = [{"role": "user", "content": text, **fields} for text in texts]
    assert api.post(f"/sessions/{session_id}/messages", json=messages).status_code == 201


def found(api: httpx.Client, q: str, **query: Any) -> list[str]:
    answer = api.get("/search", params={"q": q, **query})
    assert answer.status_code == 200, answer.text
    return [one["snippet"] for one in answer.json()["results"]]


def test_a_found_message_is_shown_with_its_session_and_its_hits(
    api: httpx.Client, free_id: str
) -> None:
    say(api, free_id, f"Straße {free_id} strasse")
    [message] = api.get(f"/sessions/{free_id}/messages").json()["messages"]
    page = api.get("/search", params={"q": f'"STRASSE {free_id}"', "session_id": free_id}).json()
    end = len(f"Straße {free_id}")
    assert page == {
        "results": [
            {
                "session_id": free_id,
                "title": f"about {free_id}",
                "message_id": message["id"],
                "role": "user",
                "created_at": message["created_at"],
                "position": api.get(f"/sessions/{free_id}/messages").json()["position"],
                "snippet": f"Straße {free_id} strasse",
                "ranges": [[0, end]],
            }
        ],
        "next_cursor": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    ("text", "q"),
    [
        ("in İstanbul now", "istanbul"),
        ("我在京都住", "京都"),
        ("我在京都住", "京"),
        ("100% sure_ly", "% _"),
        (r"a\b 'c' \"d\"", "\\ '"),
        ("👩‍💻 at work", "👩"),
        ("ภาษาไทย", "ไทย"),
        ("a\0b", "a\0b"),
        ("two\n words", '"two words"'),
    ],
)
def test_words_of_every_script_are_found(api: httpx.Client, free_id: str, text: str, q: str):
    say(api, free_id, text, "another one")
    assert found(api, q, session_id=free_id) == [text]
    listed = api.get("/sessions", params={"q": q, "id_prefix": free_id}).json()
    assert [one["id"] for one in listed["sessions"]] == [free_id]


def test_pages_show_each_message_once_the_newest_first(api: httpx.Client, free_id: str) -> None:
    texts = [f"{free_id} number {n}" for n in range(7)]
    for text in texts:
        say(api, free_id, text)
    query: dict[str, Any] = {"q": free_id, "limit": 3}
    shown = []
    while True:
        page = api.get("/search", params=query).json()
        shown += [one["snippet"] for one in page["results"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        query["cursor"] = page["next_cursor"]
    assert shown == texts[::-1]


def test_thinking_and_arguments_are_not_searched_and_results_of_tools_on_demand(
    api: httpx.Client, free_id: str
) -> None:
    api.post("/sessions", json={"id": free_id})
    messages = [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "text": "deep thought"},
                {"type": "text", "text": "loud words"},
            ],
            "tool_calls": [{"id": "c1", "name": "look", "arguments": {"at": "an argument"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "found words"},
    ]
    assert api.post(f"/sessions/{free_id}/messages", json=messages).status_code == 201
    for q, role, shown in (
        ("thought", None, []),
        ("argument", None, []),
        ("words", None, ["loud words"]),
        ("words", "assistant", ["loud words"]),
        ("words", "tool", ["found words"]),
        ("words", "user", []),
    ):
        asked = {"role": role} if role else {}
        assert found(api, q, session_id=free_id, **asked) == shown


def test_filters_by_time_and_archive(api: httpx.Client, free_id: str) -> None:
    say(api, free_id, f"old {free_id}")
    [message] = api.get(f"/sessions/{free_id}/messages").json()["messages"]
    time = message["created_at"]
    assert found(api, free_id, created_after=time) == []
    assert found(api, free_id, created_before=time) == []
    assert found(api, free_id, created_after="2020-01-01T00:00:00Z") == [f"old {free_id}"]
    assert api.post(f"/sessions/{free_id}/archive").status_code == 200
    for archived, count in (("exclude", 0), ("only", 1), ("include", 1)):
        assert len(found(api, free_id, archived=archived)) == count
    assert api.post(f"/sessions/{free_id}/restore").status_code == 200
    assert len(found(api, free_id)) == 1
    api.delete(f"/sessions/{free_id}")
    assert found(api, free_id, archived="include") == []


def test_what_a_merge_replaced_is_found_in_its_own_branch(api: httpx.Client, free_id: str) -> None:
    say(api, free_id, f"{free_id} before")
    say(api, f"{free_id}-2", f"{free_id} after")
    wanted = {"source_id": f"{free_id}-2", "strategy": "replace"}
    assert api.post(f"/sessions/{free_id}/merge", json=wanted).status_code == 200
    assert found(api, free_id, session_id=free_id) == [
        f"{free_id} after",
        f"{free_id} before",
    ]


def test_an_imported_message_keeps_its_place_in_time(api: httpx.Client, free_id: str) -> None:
    say(api, free_id, f"{free_id} first", f"{free_id} second")
    fork = api.post(f"/sessions/{free_id}/fork", json={}).json()
    shown = api.get("/search", params={"q": free_id}).json()["results"]
    assert {one["session_id"] for one in shown} == {free_id, fork["id"]}
    times = [one["created_at"] for one in shown]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ({}, "q"),
        ({"q": ""}, "q"),
        ({"q": "   "}, "q"),
        ({"q": '""'}, "q"),
        ({"q": "a" * 201}, "q"),
        ({"q": "a b c d e f g h i j k"}, "q"),
        ({"q": "a", "limit": 0}, "limit"),
        ({"q": "a", "limit": 1001}, "limit"),
        ({"q": "a", "role": "nobody"}, "role"),
        ({"q": "a", "archived": "maybe"}, "archived"),
        ({"q": "a", "created_after": "yesterday"}, "created_after"),
    ],
)
def test_a_search_outside_the_limits_is_refused_with_the_place(
    api: httpx.Client, query: dict[str, Any], place: str
) -> None:
    problem = refused(api.get("/search", params=query), 422, "invalid")
    assert problem["errors"][0]["loc"][-1] == place
    assert problem["detail"]
    if place == "q" and query:
        refused(api.get("/sessions", params=query), 422, "invalid")


def test_ids_and_cursors_are_checked(api: httpx.Client) -> None:
    refused(api.get("/search", params={"q": "a", "session_id": "../x"}), 422, "invalid-id")
    refused(api.get("/search", params={"q": "a", "cursor": "bad"}), 422, "invalid-cursor")
    assert found(api, "a", session_id="no-such-session") == []

"""Sessions, messages, runs and health over HTTP."""

import httpx

from tests.api.serving import SECONDS, Served, refused, serving


def test_a_session_is_created_found_and_deleted(api: httpx.Client, free_id: str) -> None:
    body = {
        "id": free_id,
        "title": "Grüße 🎋",
        "user_id": "u",
        "session_type": "sub_agent",
        "working_dir": "/tmp/x",
        "metadata": {"a": {"b": 1}},
        "extension_data": {"todo": []},
        "ttl_seconds": 60,
    }
    answer = api.post("/sessions", json=body)
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/api/v1/sessions/{free_id}"
    created = answer.json()
    assert created.items() >= body.items()
    assert created["state"] == "idle"
    assert created["position"].endswith("-1")
    assert api.get(f"/sessions/{free_id}").json()["title"] == "Grüße 🎋"
    refused(api.post("/sessions", json=body), 409, "session-exists")
    deleted = api.delete(f"/sessions/{free_id}")
    assert (deleted.status_code, deleted.content) == (204, b"")
    refused(api.delete(f"/sessions/{free_id}"), 404, "session-not-found")
    for path in ("", "/messages", "/events", "/runs", "/connections"):
        refused(api.get(f"/sessions/{free_id}{path}"), 404, "session-not-found")
    refused(api.get(f"/stream/{free_id}"), 404, "session-not-found")


def test_a_session_can_be_created_with_an_empty_body(api: httpx.Client) -> None:
    for content in (None, b"", b"{}", b"null"):
        headers = {"Content-Type": "application/json"}
        answer = api.post("/sessions", content=content, headers=headers)
        assert answer.status_code == 201
        assert answer.headers["location"].endswith(answer.json()["id"])


def test_session_id_is_another_name_for_id(api: httpx.Client, free_id: str) -> None:
    assert api.post("/sessions", json={"session_id": free_id}).json()["id"] == free_id
    both = {"id": free_id, "session_id": "other"}
    refused(api.post("/sessions", json=both), 422, "invalid")


def test_a_repeated_creation_replays_its_answer(api: httpx.Client) -> None:
    headers = {"Idempotency-Key": "make-one"}
    first = api.post("/sessions", json={"title": "x"}, headers=headers)
    again = api.post("/sessions", json={"title": "x"}, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]


def test_a_patch_is_a_merge_patch_guarded_by_its_etag(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    etag = api.get(path).headers["etag"]
    patch: dict[str, object] = {"title": "new", "metadata": {"a": 1, "b": {"c": 2}}}
    changed = api.patch(path, json=patch, headers={"If-Match": etag})
    assert changed.json()["metadata"] == {"a": 1, "b": {"c": 2}}
    assert changed.headers["etag"] != etag
    stale = api.patch(path, json={"title": "old"}, headers={"If-Match": etag})
    refused(stale, 412, "precondition-failed")
    patch = {"title": None, "metadata": {"a": None, "b": {"d": 3}}}
    merged = api.patch(path, json=patch, headers={"If-Match": "*"}).json()
    assert (merged["title"], merged["metadata"]) == (None, {"b": {"c": 2, "d": 3}})
    both = f'"zzz", {api.get(path).headers["etag"]}'
    assert api.patch(path, json={}, headers={"If-Match": both}).status_code == 200
    refused(api.patch(path, json={}, headers={"If-Match": "garbage"}), 412, "precondition-failed")


def test_a_deletion_with_if_match_needs_the_current_version(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    etag = api.get(path).headers["etag"]
    changed = api.patch(path, json={"title": "new"}).headers["etag"]
    for stale in (etag, f"W/{changed}"):
        refused(api.delete(path, headers={"If-Match": stale}), 412, "precondition-failed")
    assert api.get(path).json()["title"] == "new"
    assert api.delete(path, headers={"If-Match": f"{etag}, {changed}"}).status_code == 204
    refused(api.delete(path, headers={"If-Match": "*"}), 404, "session-not-found")


def test_an_unchanged_session_is_304(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    etag = api.get(path).headers["etag"]
    for header in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = api.get(path, headers={"If-None-Match": header})
        assert (answer.status_code, answer.headers["etag"]) == (304, etag)
    assert api.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    full = api.get(f"{path}?include_messages=true", headers={"If-None-Match": etag})
    assert full.json()["messages"] == []


def test_metadata_that_grows_too_large_by_patches_is_413(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}"
    assert api.patch(path, json={"metadata": {"a": "x" * 60_000}}).status_code == 200
    refused(api.patch(path, json={"metadata": {"b": "x" * 60_000}}), 413, "metadata-too-large")


def test_a_closed_session_is_read_only(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}"
    message = {"role": "user", "content": "hi"}
    assert api.post(f"{path}/close").json()["state"] == "closed"
    assert api.post(f"{path}/close").json()["state"] == "closed"
    refused(api.post(f"{path}/messages", json=message), 409, "session-closed")
    event = {"type": "custom", "name": "x"}
    refused(api.post(f"{path}/events", json=event), 409, "session-closed")
    refused(api.post(f"{path}/runs", json={"agent": "external"}), 409, "session-closed")
    chat = {"message": "x", "session_id": session_id}
    refused(api.post("/chat", json=chat), 409, "session-closed")
    assert api.get(f"{path}/events").status_code == 200
    assert api.post(f"{path}/reopen").json()["state"] == "idle"
    assert api.post(f"{path}/messages", json=message).status_code == 201


def test_sessions_are_listed_by_filter_sort_and_page() -> None:
    with serving() as served, served.client() as api:
        for number in range(5):
            body = {"id": f"s{number}", "title": f"Chat {number}", "user_id": f"u{number % 2}"}
            api.post("/sessions", json=body)
        query: dict[str, str | int] = {"sort_by": "title", "sort_order": "asc", "limit": 2}
        first = api.get("/sessions", params=query).json()
        assert [one["id"] for one in first["sessions"]] == ["s0", "s1"]
        assert (first["has_more"], first["total"]) == (True, 5)
        second = api.get("/sessions", params={**query, "cursor": first["next_cursor"]}).json()
        assert [one["id"] for one in second["sessions"]] == ["s2", "s3"]
        jumped = api.get("/sessions", params={**query, "offset": 4, "count": "false"}).json()
        assert ([one["id"] for one in jumped["sessions"]], jumped["offset"]) == (["s4"], 4)
        assert "total" not in jumped
        assert api.get("/sessions", params={"user_id": "u1"}).json()["total"] == 2
        assert api.get("/sessions", params={"title_contains": "CHAT 3"}).json()["total"] == 1
        assert api.get("/sessions", params={"title_contains": "%"}).json()["total"] == 0
        assert api.get("/sessions", params={"id_prefix": "s"}).json()["total"] == 5
        assert api.get("/sessions", params={"id_prefix": "s3"}).json()["total"] == 1
        refused(api.get("/sessions", params={"id_prefix": "../s"}), 422, "invalid-id")
        assert api.get("/sessions", params={"state": "closed"}).json()["total"] == 0
        for name, total in (("created_after", 0), ("created_before", 5)):
            params = {name: "2126-01-01T00:00:00+02:00"}
            assert api.get("/sessions", params=params).json()["total"] == total
        other_order = {**query, "sort_order": "desc", "cursor": first["next_cursor"]}
        refused(api.get("/sessions", params=other_order), 422, "invalid-cursor")


def test_messages_are_added_whole_and_read_from_either_end(
    api: httpx.Client, session_id: str
) -> None:
    path = f"/sessions/{session_id}/messages"
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image", "data": "aGk=", "media_type": "image/png", "name": "a.png"},
        {"type": "file", "url": "https://x/y", "media_type": "text/plain"},
    ]
    one = api.post(path, json={"role": "user", "content": parts, "metadata": {"k": 1}})
    assert one.status_code == 201
    assert one.json()["content"] == parts
    call = {"id": "c", "name": "n", "arguments": {"x": 1}}
    many = [
        {"role": "assistant", "content": "", "tool_calls": [call], "model": "m"},
        {"role": "tool", "content": "", "tool_call_id": "c", "id": "mine"},
    ]
    added = api.post(path, json=many).json()
    assert added["messages"][1]["id"] == "mine"
    ids = [one.json()["id"], *(message["id"] for message in added["messages"])]
    page = api.get(path, params={"limit": 2}).json()
    assert [message["id"] for message in page["messages"]] == ids[:2]
    assert page["has_more"]
    rest = api.get(path, params={"after": page["next_cursor"]}).json()
    assert [message["id"] for message in rest["messages"]] == ids[2:]
    assert (rest["has_more"], rest["next_cursor"]) == (False, None)
    last = api.get(path, params={"order": "desc", "limit": 1}).json()
    assert [message["id"] for message in last["messages"]] == ["mine"]
    before = api.get(path, params={"order": "desc", "before": "mine"}).json()
    assert [message["id"] for message in before["messages"]] == ids[1::-1]
    assert page["position"] == added["position"]
    assert page["stream_url"].endswith(page["position"])
    refused(api.get(path, params={"after": "msg_unknown"}), 404, "message-not-found")
    whole = api.get(f"/sessions/{session_id}", params={"include_messages": "true"}).json()
    assert [message["id"] for message in whole["messages"]] == ids


def test_a_used_message_id_is_409(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}/messages"
    body = {"id": "mine", "role": "user", "content": "x"}
    headers = {"Idempotency-Key": "mine"}
    assert api.post(path, json=body, headers=headers).status_code == 201
    problem = refused(api.post(path, json=body), 409, "message-exists")
    assert problem["message_id"] == "mine"
    assert "mine" in problem["detail"]
    refused(api.post(path, json=[{"role": "user", "content": "y"}, body]), 409, "message-exists")
    chat = {"session_id": session_id, "message": body}
    refused(api.post("/chat", json=chat), 409, "message-exists")
    again = api.post(path, json=body, headers=headers)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    twice = [body | {"id": "new"}, body | {"id": "new"}]
    refused(api.post(path, json=twice), 422, "invalid-id")
    refused(api.post("/chat", json=chat | {"message": twice}), 422, "invalid-id")
    refused(api.get(path, params={"after": "mine@"}), 422, "invalid-id")
    assert len(api.get(path).json()["messages"]) == 1


def test_repeated_messages_are_added_once(api: httpx.Client, session_id: str) -> None:
    path = f"/sessions/{session_id}/messages"
    headers = {"Idempotency-Key": "say-it"}
    for body in ({"role": "user", "content": "x"}, [{"role": "user", "content": "x"}]):
        headers = {"Idempotency-Key": f"say-{type(body).__name__}"}
        first = api.post(path, json=body, headers=headers)
        again = api.post(path, json=body, headers=headers)
        assert again.json() == first.json()
        assert again.status_code == 201
        assert again.headers["idempotency-replayed"] == "true"
    assert len(api.get(path).json()["messages"]) == 2


def test_runs_are_listed_in_pages(api: httpx.Client, free_id: str) -> None:
    body = {"message": "x", "session_id": free_id, "options": {"delay_ms": 0, "tokens": 0}}
    made = [
        api.post("/chat", json=body, headers={"Prefer": "wait=60"}).json()["run_id"]
        for _ in range(3)
    ]
    page = api.get(f"/sessions/{free_id}/runs", params={"limit": 2}).json()
    assert [run["run_id"] for run in page["runs"]] == made[:2]
    params = {"limit": 2, "cursor": page["next_cursor"]}
    rest = api.get(f"/sessions/{free_id}/runs", params=params).json()
    assert [run["run_id"] for run in rest["runs"]] == made[2:]
    newest = api.get(f"/sessions/{free_id}/runs", params={"order": "desc", "limit": 1}).json()
    assert [run["run_id"] for run in newest["runs"]] == made[2:]
    refused(api.get(f"/sessions/{free_id}/runs/run_unknown"), 404, "run-not-found")
    refused(api.post(f"/sessions/{free_id}/runs/run_unknown/cancel"), 404, "run-not-found")
    ended = api.post(f"/sessions/{free_id}/runs/{made[0]}/cancel").json()
    assert ended["status"] == "completed"


def test_health_and_metrics_are_at_the_root_too(served: Served, api: httpx.Client) -> None:
    assert api.get("/health/live").json()["status"] == "ok"
    assert api.get("/health/ready").json()["status"] == "ready"
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert httpx.get(f"{served.url}{path}", trust_env=False, timeout=SECONDS).status_code == 200
    text = api.get("/metrics").text
    assert "# TYPE bamboo_sessions gauge" in text
    assert "# TYPE bamboo_runs_started_total counter" in text
    assert "process_resident_memory_bytes" in text


def test_a_draining_gateway_is_not_ready_and_starts_no_runs(
    served: Served,
) -> None:
    with serving() as own, own.client() as api:
        api.post("/sessions", json={"id": "s"})
        own.app.state.manager._context.drain.begin()
        assert refused(api.get("/health/ready"), 503, "draining")["check"] == "drain"
        assert api.get("/health/live").status_code == 200

"""`kill -9` between and in the middle of branches: people see the tree that was acknowledged."""

import json
from pathlib import Path

import pytest

from tests.processes import Gateway
from tests.support.seen import call, check_files, check_session, check_what_people_see
from tests.support.waiting import until


@pytest.mark.parametrize("storage_url", ["jsonl:", "sqlite:"])
def test_r1_r5_r9_branches_survive_a_kill_in_the_middle_of_a_regeneration(
    tmp_path: Path, storage_url: str
) -> None:
    agents = json.dumps({"default": "demo:?delay_ms=0"})
    settings = {"BAMBOO_AGENTS": agents, "BAMBOO_STORAGE_URL": storage_url}
    with Gateway(tmp_path, {**settings, "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.2"}) as gateway:
        http = gateway.http
        wait = {"Prefer": "wait=60"}
        first = call(http, "POST", "/chat", json={"session_id": "s", "message": "a"}, headers=wait)
        asked = first["message_ids"][0]
        call(http, "POST", "/sessions/s/regenerate", json={}, headers=wait)
        held = {"hold": "middle", "tokens": 6, "thinking": False, "tool": False}
        edit = {"session_id": "s", "message": "A", "edit_message_id": asked, "options": held}
        call(http, "POST", "/chat", json=edit)
        until(lambda: _says(gateway, "token", "A"), "the edit is being answered")
        # It waits, and keeps the place that it named across the kill.
        call(http, "POST", "/sessions/s/regenerate", json={"message_id": asked, "run_id": "last"})
        gateway.kill()
        gateway.start()
        http = gateway.http
        call(http, "GET", "/sessions/s/runs/last", headers=wait)
        said = check_session(http, "s")
        assert said[0]["id"] == asked
        branches = call(http, "GET", "/sessions/s/branches")["branches"]
        assert len(branches) == 4
        assert [one["current"] for one in branches] == [False, False, False, True]
        for branch in branches:
            call(http, "POST", f"/sessions/s/branches/{branch['branch_id']}/select")
            gateway.kill()
            gateway.start()
            http = gateway.http
            check_what_people_see(http, {"s": []})
    check_files(gateway.data_dir, storage_url)


def _says(gateway: Gateway, kind: str, asked: str) -> bool:
    events = gateway.events("s")
    starts = [
        event["seq"]
        for event in events
        if event["type"] == "message" and event["message"]["content"] == asked
    ]
    return any(event["type"] == kind and event["seq"] > starts[-1] for event in events)

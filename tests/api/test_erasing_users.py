"""The operator erases a user: afterwards a search for the user's bytes finds nothing.

The search looks at every answer that the others get, and at every file of the data directory.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import httpx
import pytest

from bamboo_gateway.credentials.keyfile import KeyFile
from tests.api.keyed import add_key, bearer
from tests.cli.running import bamboo
from tests.processes import Gateway
from tests.support.clients import local_client
from tests.support.seen import call, events_of
from tests.support.waiting import until

USER = "zz-alice@example.org"
SAID = "zz-said-by-alice"
SHARED = "zz-shared-by-alice"
"""What bob has forked: it is bob's since then."""
# What names the user for good, as the receipt says.
AUDIT = "audit.jsonl"


@dataclass
class House:
    """A gateway with sessions of alice and bob."""

    gateway: Gateway
    operator: httpx.Client
    alice: httpx.Client
    bob: httpx.Client

    @property
    def data_dir(self) -> Path:
        return self.gateway.data_dir

    @property
    def exports(self) -> Path:
        return self.data_dir.parent / "exports"

    def files_with(self, *texts: str) -> set[str]:
        """Return the files that have one of the texts in their name or content."""
        return {
            str(file.relative_to(self.data_dir))
            for file in self.data_dir.rglob("*")
            if file.is_file()
            and any(text in file.name or text.encode() in _content(file) for text in texts)
        }

    def answers(self) -> Iterator[str]:
        """Yield what the operator and bob are shown, session by session."""
        for client in (self.operator, self.bob):
            for path in ("/sessions?limit=1000", "/archive?limit=1000", "/statistics"):
                yield client.get(path).text
            for session in client.get("/sessions?limit=1000").json()["sessions"]:
                one = f"/sessions/{session['id']}"
                for path in ("", "/messages", "/runs", "/tree", "/statistics", "/shares"):
                    yield client.get(one + path).text
                yield json.dumps(events_of(client, session["id"]))
                for form in ("json", "yaml", "markdown"):
                    yield client.get(f"{one}/export", params={"format": form}).text


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


@pytest.fixture(params=["jsonl:", "sqlite:"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    with living(tmp_path, BAMBOO_STORAGE_URL=request.param) as one:
        yield one


@contextmanager
def living(directory: Path, **settings: str) -> Iterator[House]:
    file = KeyFile(directory / "data" / "keys.json")
    keys = [add_key(file, user, "read", "write")[1] for user in (USER, "bob")]
    add_key(file, USER, "read")
    chosen = {
        "BAMBOO_API_KEYS": "operator",
        "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "3600",
        "BAMBOO_RATE_LIMIT_PER_CALLER": "10000/minute",
        "BAMBOO_EXPORT_DIR": str(directory / "exports"),
        **settings,
    }
    with Gateway(directory, chosen) as gateway, ExitStack() as stack:
        gateway.http.headers["Authorization"] = "Bearer operator"
        alice, bob = (
            stack.enter_context(
                local_client(base_url=gateway.http.base_url, headers=bearer(key), timeout=60)
            )
            for key in keys
        )
        yield House(gateway, gateway.http, alice, bob)


def settle(house: House) -> None:
    """Fill the house: sessions of alice in every state, and shares in both directions."""
    alice, bob = house.alice, house.bob
    for name in ("plain", "archived", "closed", "forked", "busy", "expired"):
        call(alice, "POST", "/sessions", json={"id": name, "title": f"{SAID} {name}"})
        call(alice, "POST", "/chat", json={"session_id": name, "message": f"{SAID} {name}"})
    for name in ("plain", "archived", "closed", "forked", "expired"):
        until(partial(_is_idle, alice, name), "its run has ended")
    call(alice, "POST", "/sessions/archived/archive")
    call(alice, "POST", "/sessions/closed/close")
    until(lambda: _is_idle(alice, "busy"), "its run has ended")
    call(alice, "POST", "/sessions/busy/runs", json={"agent": "external"})
    call(alice, "POST", "/chat", json={"session_id": "busy", "message": f"{SAID} later"})
    call(alice, "POST", "/sessions", json={"id": "lent", "title": SHARED})
    call(alice, "POST", "/sessions/lent/messages", json={"role": "user", "content": SHARED})
    call(alice, "POST", "/sessions/lent/shares", json={"user_id": "bob"})
    call(bob, "POST", "/sessions/lent/fork", json={"new_id": "bobs-fork"})
    for name in ("bobs", "bobs-archived", "bobs-other"):
        call(bob, "POST", "/sessions", json={"id": name, "title": "of bob"})
        call(bob, "POST", f"/sessions/{name}/messages", json={"role": "user", "content": "b"})
        call(bob, "POST", f"/sessions/{name}/shares", json={"user_id": USER})
    # A share that was replaced: the log has both.
    call(bob, "POST", "/sessions/bobs/shares", json={"user_id": USER, "expires_in": 3600})
    call(bob, "POST", "/sessions/bobs-archived/archive")
    call(bob, "POST", "/sessions/bobs-other/shares", json={"link": True})
    for client in (alice, bob, house.operator):
        name = "bobs" if client is bob else "plain"
        body = {"format": "json", "path": "reports/mine.json"}
        call(client, "POST", f"/sessions/{name}/export", json=body)
    sent = alice.post(
        "/files",
        params={"name": f"{SAID}.txt"},
        content=f"{SAID} in a file",
        headers={"Content-Type": "text/plain", "Idempotency-Key": "file"},
    )
    assert sent.status_code == 201, sent.text
    part = {"type": "file", "file_id": sent.json()["file_id"]}
    call(alice, "POST", "/sessions/plain/messages", json={"role": "user", "content": [part]})
    call(alice, "PATCH", "/sessions/expired", json={"ttl_seconds": 1})
    until(lambda: alice.get("/sessions/expired").status_code == 410, "it has expired")


def _is_idle(client: httpx.Client, name: str) -> bool:
    session = call(client, "GET", f"/sessions/{name}")
    return session["active_run_id"] is None


def erase(house: House, *, dry_run: bool = False) -> dict[str, Any]:
    params = {"dry_run": "true"} if dry_run else {}
    receipt: dict[str, Any] = call(house.operator, "DELETE", f"/users/{USER}", params=params)
    return receipt


@pytest.mark.timeout(300)
def test_nothing_of_an_erased_user_is_left_in_answers_and_files(house: House) -> None:
    settle(house)
    before = {name: events_of(house.bob, name) for name in ("bobs", "bobs-fork")}
    would = erase(house, dry_run=True)
    assert (would["sessions"], would["archives"], would["shares"]) == (6, 1, 3)
    assert (would["keys"], would["exports"]) == (2, 1)
    assert (would["complete"], would["stores"]) == (False, [])
    assert call(house.alice, "GET", "/sessions/plain")["title"] == f"{SAID} plain"
    assert house.files_with(USER, SAID) > {AUDIT, "keys.json"}
    with house.alice.stream("GET", "/stream/bobs") as watching:
        frames = watching.iter_text()
        assert '"open"' in next(frames)
        receipt = erase(house)
        assert '"unauthorized"' in "".join(frames)
    assert receipt["complete"], receipt
    for name in ("sessions", "archives", "shares", "keys", "exports"):
        assert receipt[name] == would[name]
    assert receipt["bytes_freed"] > 1000
    assert {part["gone"] for part in receipt["stores"]} == {"now"}
    remains = {one["where"]: one["what"] for one in receipt["remains"]}
    assert remains.keys() >= {"backups", "audit log", "tokens of the identity provider"}
    assert "1 forks" in remains["other users' sessions"]
    # The user is out, at once.
    assert house.alice.get("/sessions").status_code == 401
    for shown in house.answers():
        assert USER not in shown
        assert SAID not in shown
    # And no file has anything, while the gateway runs; the audit log keeps the ids.
    assert house.files_with(USER, SAID) == {AUDIT}
    exports = [file for file in house.exports.rglob("*") if file.is_file()]
    assert len(exports) == 2
    assert remains["export_dir"].startswith("files that the operator exported")
    # What is bob's is as it was, at its positions, but for the shares.
    for name, log in before.items():
        kept = [event for event in log if event["type"] != "session_shared"]
        assert [one for one in events_of(house.bob, name) if one in kept] == kept
    assert (
        call(house.bob, "GET", "/sessions/bobs-fork/messages")["messages"][0]["content"] == SHARED
    )
    shares = call(house.bob, "GET", "/sessions/bobs-other/shares")["shares"]
    assert [share["user_id"] for share in shares] == [None]
    assert call(house.bob, "GET", "/archive")["archives"][0]["session"]["id"] == "bobs-archived"
    again = erase(house)
    assert again["complete"]
    assert not any(again[name] for name in ("sessions", "archives", "shares", "keys", "exports"))
    # Also for the next process.
    house.gateway.kill()
    house.gateway.start()
    for shown in house.answers():
        assert USER not in shown
    assert house.files_with(USER, SAID) == {AUDIT}
    record = json.loads((house.data_dir / AUDIT).read_text().splitlines()[-1])
    assert (record["action"], record["targets"], record["outcome"]) == (
        "erase-user",
        [USER],
        "done",
    )


def test_only_the_operator_erases_users(house: House) -> None:
    for client in (house.alice, house.bob):
        assert client.delete(f"/users/{USER}").json()["code"] == "forbidden"
    acting = house.operator.delete(f"/users/{USER}", headers={"X-User-Id": "bob"})
    assert acting.json()["code"] == "forbidden"
    for wrong in ("%20", "a%20b", "-x", "x" * 129, "a%00"):
        answer = house.operator.delete(f"/users/{wrong}")
        assert answer.status_code == 422, answer.text
        assert answer.json()["code"] == "invalid-id"
    nobody = call(house.operator, "DELETE", "/users/nobody")
    assert nobody["complete"]
    assert nobody["sessions"] == nobody["keys"] == 0
    assert house.alice.get("/sessions").status_code == 200


@pytest.mark.timeout(300)
def test_an_erasure_that_was_killed_goes_on_with_the_next_call(tmp_path: Path) -> None:
    with living(tmp_path) as house:
        for number in range(120):
            house.alice.post("/sessions", json={"id": f"s-{number}", "title": SAID})
        call(house.bob, "POST", "/sessions", json={"id": "bobs"})
        call(house.bob, "POST", "/sessions/bobs/shares", json={"user_id": USER})

        def left() -> int:
            return len(list((house.data_dir / "events").glob("s-*")))

        until(lambda: left() == 120, "all logs are written")
        with local_client(base_url=house.gateway.http.base_url, timeout=60) as other:

            def ask() -> None:
                with pytest.raises(httpx.TransportError):
                    other.delete(f"/users/{USER}", headers=bearer("operator"))

            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: left() < 100, "some are deleted")
            house.gateway.kill()
            asking.join(60)
        house.gateway.start()
        receipt = erase(house)
        assert receipt["complete"]
        assert receipt["shares"] == 1
        assert house.files_with(USER, SAID) <= {AUDIT}
        assert [one["id"] for one in call(house.operator, "GET", "/sessions")["sessions"]] == [
            "bobs"
        ]


def test_the_command_asks_first_and_prints_the_receipt(house: House) -> None:
    for number in range(5):
        call(house.alice, "POST", "/sessions", json={"id": f"s-{number}", "title": SAID})

    def users_delete(*arguments: str, **options: str) -> CompletedProcess[str]:
        asked = ("users", "delete", USER, *arguments)
        return bamboo(*asked, url=house.gateway.url, BAMBOO_API_KEY="operator", **options)

    asked = users_delete("--dry-run")
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("5 sessions, 0 archives (")
    counted = f"0 shares, 2 keys, 0 files and 0 exported files of {USER} would be deleted\n"
    assert counted in asked.stdout
    refused = users_delete(stdin="n\n")
    assert refused.returncode == 1
    assert "nothing was deleted" in refused.stderr
    assert len(call(house.alice, "GET", "/sessions")["sessions"]) == 5
    done = users_delete("--yes", "--json")
    assert done.returncode == 0, done.stderr
    receipt = json.loads(done.stdout)
    assert (receipt["sessions"], receipt["keys"], receipt["complete"]) == (5, 2, True)
    again = users_delete("--yes")
    nothing = "0 sessions, 0 archives (0 bytes), 0 shares, 0 keys, 0 files and 0 exported files"
    assert nothing in again.stdout
    assert "remains in backups: " in again.stdout

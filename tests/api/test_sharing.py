"""Sharing at a running gateway: with another user, by a link, and after a revocation."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bamboo_gateway.api.security.share_links import SHARED_PATHS
from bamboo_gateway.credentials.keyfile import KeyFile
from bamboo_gateway.domain.callers import Caller
from tests.api.keyed import Keyed, add_key, bearer, keyed, watching
from tests.api.serving import CONTRACT, refused
from tests.support.frames import Frame, parse_frames

DOCUMENT = CONTRACT.document
ABOUT_ONE = [
    (method.upper(), path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
    if "{session_id}" in path
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    directory = tmp_path_factory.mktemp("sharing")
    with keyed(directory, storage_url="jsonl:", data_dir=directory / "data") as running:
        yield running


@pytest.fixture(scope="module")
def keys(gateway: Keyed) -> dict[str, str]:
    return {user: gateway.make(user)[1] for user in ("alice", "bob")}


@contextmanager
def client(gateway: Keyed, key: str | None) -> Iterator[httpx.Client]:
    with gateway.served.client(headers=bearer(key) if key else {}) as made:
        yield made


@pytest.fixture
def alice(gateway: Keyed, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client(gateway, keys["alice"]) as made:
        yield made


@pytest.fixture
def bob(gateway: Keyed, keys: dict[str, str]) -> Iterator[httpx.Client]:
    with client(gateway, keys["bob"]) as made:
        yield made


@pytest.fixture
def anybody(gateway: Keyed) -> Iterator[httpx.Client]:
    with client(gateway, None) as made:
        yield made


@pytest.fixture
def session_id(alice: httpx.Client) -> str:
    made = alice.post("/sessions", json={"title": "plans"}).json()["id"]
    said = alice.post(f"/sessions/{made}/messages", json={"role": "user", "content": "hi"})
    assert said.status_code == 201
    return str(made)


def share(alice: httpx.Client, session_id: str, **body: object) -> dict[str, str]:
    answer = alice.post(f"/sessions/{session_id}/shares", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    assert answer.headers["location"] == f"/api/v1/sessions/{session_id}/shares/{made['id']}"
    return made


def filled(path: str, session_id: str) -> str:
    return path.removeprefix("/api/v1").format(
        session_id=session_id,
        run_id="r",
        connection_id="c",
        name="x",
        share_id="share-1",
        branch_id="main",
    )


@pytest.mark.parametrize(("method", "path", "operation"), ABOUT_ONE)
def test_a_share_link_opens_exactly_its_documented_routes(
    alice: httpx.Client, anybody: httpx.Client, session_id: str, method, path, operation
):
    token = share(alice, session_id, link=True)["token"]
    query = {"share": token}
    if "stream" in path or "reconnect" in path:
        query["until"] = "complete"  # there is no run: answered and over
    url = filled(path, session_id)
    refused(anybody.request(method, url), 401, "unauthorized")
    answer = anybody.request(method, url, params=query)
    opens = {"link": ["read"]} in operation["security"]
    assert opens == (method == "GET" and path in SHARED_PATHS)
    assert answer.status_code in ({200, 204} if opens else {403}), answer.text
    if not opens:
        refused(answer, 403, "forbidden")
    # And no other session, whoever asks for it.
    other = alice.post("/sessions", json={}).json()["id"]
    foreign = anybody.request(method, filled(path, other), params=query)
    refused(foreign, *((404, "session-not-found") if opens else (403, "forbidden")))


@pytest.mark.parametrize("path", ["", "?include_messages=true", "/messages", "/messages?limit=1"])
def test_stream_urls_keep_the_share_token_or_ticket_of_the_request(
    gateway: Keyed, alice: httpx.Client, anybody: httpx.Client, session_id: str, path: str
):
    asked = f"/sessions/{session_id}{path}{'&' if path.endswith(('e', '1')) else '?'}"
    ticket = alice.post(f"/sessions/{session_id}/ticket").json()["ticket"]
    for came in (f"share={share(alice, session_id, link=True)['token']}", f"ticket={ticket}"):
        given = anybody.get(asked + came).json()["stream_url"]
        with watching(gateway, given.removeprefix("/api/v1"), {}) as stream:
            stream.until(b'"open"')
        # Who comes with a key is given what the key opens, and not what stood beside it.
        with_key = alice.get(asked + came).json()["stream_url"]
        assert came not in with_key
        with watching(gateway, with_key.removeprefix("/api/v1"), dict(alice.headers)) as stream:
            stream.until(b'"open"')


def test_an_invalid_share_link_is_401(alice: httpx.Client, anybody: httpx.Client, session_id: str):
    made = share(alice, session_id, link=True, expires_in=3600)
    token = made["token"]
    url = f"/sessions/{session_id}"
    assert anybody.get(url, params={"share": token}).status_code == 200
    for wrong in (token[:-1], token + "A", "link_x.y", "%00", "alice"):
        answer = anybody.get(url, params={"share": wrong})
        refused(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    refused(anybody.get(url, params=[("share", token), ("share", token)]), 401, "unauthorized")
    # With a key the key says who comes, and a link adds nothing to it.
    wrong_key = anybody.get(url, params={"share": token}, headers=bearer("wrong"))
    refused(wrong_key, 401, "unauthorized")
    assert alice.delete(f"/sessions/{session_id}/shares/{made['id']}").status_code == 204
    refused(anybody.get(url, params={"share": token}), 401, "unauthorized")


def test_revoking_a_share_ends_its_streams_and_no_others(
    alice: httpx.Client, bob: httpx.Client, anybody: httpx.Client, session_id: str
):
    with_bob = share(alice, session_id, user_id="bob")
    by_link = share(alice, session_id, link=True)
    url = f"/stream/{session_id}"
    with (
        alice.stream("GET", url) as hers,
        bob.stream("GET", url) as his,
        anybody.stream("GET", url, params={"share": by_link["token"]}) as anyones,
    ):
        chunks = hers.iter_raw()
        seen = _take(chunks, b"", '"open"')
        for made, stream in ((with_bob, his), (by_link, anyones)):
            revoked = alice.delete(f"/sessions/{session_id}/shares/{made['id']}")
            assert revoked.status_code == 204
            frames = parse_frames(stream.read())[0]
            _check_goodbye(frames)
        alice.post(f"/sessions/{session_id}/messages", json={"role": "user", "content": "more"})
        _take(chunks, seen, '"more"')
    refused(bob.get(f"/sessions/{session_id}"), 404, "session-not-found")
    refused(bob.get(url), 404, "session-not-found")


def _take(chunks: Iterator[bytes], seen: bytes, text: str) -> bytes:
    while text.encode() not in seen:
        seen += next(chunks)
    return seen


def _check_goodbye(frames: list[Frame]) -> None:
    last = frames[-1].data
    assert last is not None
    assert (last["type"], last["reason"], last["retry"]) == ("goodbye", "unauthorized", True)


def test_a_grantee_lists_and_forks_a_shared_session(
    alice: httpx.Client, bob: httpx.Client, session_id: str
):
    assert share(alice, session_id, user_id="bob").keys() == {
        "id",
        "user_id",
        "created_at",
        "expires_at",
        "scope",
    }
    shown = bob.get("/sessions?shared=true").json()["sessions"]
    assert session_id in {session["id"] for session in shown}
    assert session_id not in {s["id"] for s in bob.get("/sessions").json()["sessions"]}
    assert alice.get("/sessions?shared=true").json()["total"] == 0
    fork = bob.post(f"/sessions/{session_id}/fork", json={}).json()
    assert fork["user_id"] == "bob"
    refused(alice.get(f"/sessions/{fork['id']}"), 404, "session-not-found")
    answer = bob.post(f"/sessions/{session_id}/messages", json={"role": "user", "content": "x"})
    refused(answer, 403, "forbidden")
    refused(bob.get(f"/sessions/{session_id}/shares"), 403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"link": False},
        {"link": True, "user_id": "bob"},
        {"user_id": ""},
        {"link": True, "expires_in": 0},
        {"link": True, "expires_in": 1 << 60},
        {"user_id": "alice"},
    ],
)
def test_a_share_is_with_one_other_user_or_by_link(
    alice: httpx.Client, session_id: str, body: dict[str, object]
):
    refused(alice.post(f"/sessions/{session_id}/shares", json=body), 422, "invalid")
    assert alice.get(f"/sessions/{session_id}/shares").json()["shares"] == []
    missing = alice.delete(f"/sessions/{session_id}/shares/share-1")
    refused(missing, 404, "share-not-found")


def test_a_ticket_of_a_grantee_shows_what_is_shared_and_ends_with_the_share(
    alice: httpx.Client, bob: httpx.Client, anybody: httpx.Client, session_id: str
):
    refused(bob.post(f"/sessions/{session_id}/ticket"), 404, "session-not-found")
    made = share(alice, session_id, user_id="bob")
    ticket = {"ticket": bob.post(f"/sessions/{session_id}/ticket").json()["ticket"]}
    url = f"/sessions/{session_id}"
    assert anybody.get(url, params=ticket).status_code == 200
    refused(anybody.get(f"{url}/export", params=ticket), 403, "forbidden")
    with anybody.stream("GET", f"/stream/{session_id}", params=ticket) as stream:
        assert alice.delete(f"{url}/shares/{made['id']}").status_code == 204
        _check_goodbye(parse_frames(stream.read())[0])
    refused(anybody.get(url, params=ticket), 404, "session-not-found")


def test_a_share_links_stream_ends_when_the_share_expires(gateway: Keyed):
    is_live = gateway.served.app.state.gate.is_live
    by_link = Caller("link:x", None, frozenset({"read"}), "s", "link:x", share_id="x")
    assert is_live(by_link)
    assert not is_live(replace(by_link, expires_at=1))
    assert not is_live(replace(by_link, share_id=None)), "the link is what it came by"


def test_failed_guesses_do_not_lock_out_a_known_share_link(tmp_path: Path):
    # Made before the gateway starts: asking whether it knows the key would count as guessing.
    _, key = add_key(KeyFile(tmp_path / "keys.json"), "alice")
    with keyed(tmp_path, auth_failures_per_address="3/day") as gateway:
        with client(gateway, key) as alice:
            alice.post("/sessions", json={"id": "s"})
            tokens = [share(alice, "s", link=True)["token"] for _ in range(2)]
        with client(gateway, None) as anybody:

            def opened(token: str) -> int:
                return anybody.get("/sessions/s", params={"share": token}).status_code

            assert opened(tokens[0]) == 200
            while opened("link_guessed") != 429:
                pass
            assert opened(tokens[0]) == 200
            assert opened(tokens[1]) == 429, "as any credential that was not seen before"


def test_shares_and_their_links_survive_a_restart(tmp_path: Path):
    settings = {"storage_url": "jsonl:", "data_dir": tmp_path / "data"}
    with keyed(tmp_path, **settings) as gateway:
        keys = {user: gateway.make(user)[1] for user in ("alice", "bob")}
        with client(gateway, keys["alice"]) as alice:
            alice.post("/sessions", json={"id": "s"})
            share(alice, "s", user_id="bob")
            token = share(alice, "s", link=True)["token"]
            assert alice.post("/sessions/s/archive").status_code == 200
    secret = token.split(".")[1].encode()
    assert all(secret not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    with keyed(tmp_path, **settings) as gateway:
        with client(gateway, keys["bob"]) as bob:
            assert bob.get("/sessions/s").json()["state"] == "archived"
            assert bob.get("/sessions?shared=true&state=archived").json()["total"] == 1
        with client(gateway, None) as anybody:
            assert anybody.get("/sessions/s/messages", params={"share": token}).status_code == 200

"""Keys of an identity provider over HTTP: a real server that is slow, down, or rotates them."""

import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

import anyio
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric import ec
from typing_extensions import override

from bamboo_gateway.credentials import remote_keys
from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.remote_keys import RemoteKeys
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import Unavailable
from bamboo_gateway.settings import Settings
from tests.api.serving import serving
from tests.credentials.test_tokens import hs256, jwk, pem, raw_token, rsa_key, signed
from tests.support.clocks import FakeClock
from tests.support.http_servers import http_server

DEADLINE_SECONDS = 60

Answer = Callable[[BaseHTTPRequestHandler], None]


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


OLD, NEW = ec_key(), ec_key()


def document(**keys: Any) -> bytes:
    return json.dumps({"keys": [jwk(key, kid=kid) for kid, key in keys.items()]}).encode()


def sends(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


class Provider:
    """An identity provider; `answer` is what it does with the next request."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/jwks"
        self.answer: Answer = sends(document(old=OLD))
        self.requests = 0
        self.asked = threading.Event()
        self.may_end = threading.Event()

    def hangs(self, request: BaseHTTPRequestHandler) -> None:
        """Begin to answer and wait until the test ends, or the client has gone."""
        request.send_response(200)
        request.end_headers()
        request.wfile.flush()
        self.asked.set()
        self.may_end.wait(DEADLINE_SECONDS)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running() as one:
        yield one


@contextmanager
def running(port: int = 0) -> Iterator[Provider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            one.requests += 1
            try:
                one.answer(self)
            except OSError:
                return  # the gateway has gone

        @override
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http_server(Handler, port) as listening:
        one = Provider(listening)
        try:
            yield one
        finally:
            one.may_end.set()


class Clock(FakeClock):
    """Tokens expire by the machine's time; the age of keys is the test's."""


def gate_of(provider: Provider, clock: FakeClock, **more: Any) -> Gate:
    return Gate(Settings(storage_url="memory:", jwks_url=provider.url, **more), clock)


async def caller_of(gate: Gate, token: bytes) -> Caller | None:
    with anyio.fail_after(DEADLINE_SECONDS):
        await gate.prepare_bearer(token)
    return gate._tokens.verify(token) if gate._tokens is not None else None


# The suite may come to these tests long after it has read them.
LASTING = {"exp": int(time.time()) + 86_400}
OLD_TOKEN = signed(OLD, "ES256", "old", **LASTING)
NEW_TOKEN = signed(NEW, "ES256", "new", **LASTING)


async def test_a_token_of_the_providers_key_is_its_user(provider: Provider) -> None:
    async with gate_of(provider, Clock()) as gate:
        caller = await caller_of(gate, OLD_TOKEN)
        assert caller is not None
        assert caller.user_id == "alice"
        assert not gate.is_open


async def test_a_rotated_key_is_read_at_once_and_the_removed_one_refused(
    provider: Provider,
) -> None:
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        provider.answer = sends(document(new=NEW))
        clock.advance(60)
        assert await caller_of(gate, NEW_TOKEN)
        assert await caller_of(gate, OLD_TOKEN) is None


async def test_unknown_keys_have_the_set_read_once_and_seldom(provider: Provider) -> None:
    """R11: anybody can send an unknown `kid`."""
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        clock.advance(60)
        before = provider.requests
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(caller_of, gate, NEW_TOKEN)
        assert provider.requests == before + 1
        assert await caller_of(gate, NEW_TOKEN) is None
        assert provider.requests == before + 1
        clock.advance(60)
        assert await caller_of(gate, NEW_TOKEN) is None
        assert provider.requests == before + 2


async def test_a_key_that_rotates_under_a_hundred_requests_is_read_once_for_all(
    provider: Provider,
) -> None:
    """R11: all wait for the one answer, and none of them is refused."""
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        provider.answer = sends(document(new=NEW))
        clock.advance(60)
        before, callers = provider.requests, []

        async def ask() -> None:
            callers.append(await caller_of(gate, NEW_TOKEN))

        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(ask)
        assert [caller and caller.user_id for caller in callers] == ["alice"] * 100
        assert provider.requests == before + 1


async def test_a_flood_of_made_up_keys_asks_the_provider_seldom_and_holds_up_no_known_one(
    provider: Provider,
) -> None:
    """R11: each token of the flood names a key of its own."""
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        clock.advance(60)
        before = provider.requests
        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(caller_of, gate, signed(NEW, "ES256", f"made-up-{number}"))
            assert await caller_of(gate, OLD_TOKEN)
        assert provider.requests == before + 1


@pytest.mark.parametrize("header", [b"[" * 3000, b'{"a":' * 1000, b"\xff", b"1", b'{"kid":1}'])
async def test_a_header_that_is_no_header_is_no_failure(provider: Provider, header: bytes) -> None:
    async with gate_of(provider, Clock()) as gate:
        token = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (header, b"{}", b"x"))
        assert await caller_of(gate, token) is None


async def test_a_provider_that_is_down_stops_no_start_and_its_tokens_come_again() -> None:
    with running() as provider:
        url = provider.url
    provider.url = url  # nobody listens there any more
    async with gate_of(provider, Clock(), api_keys="k" * 40) as gate:
        with pytest.raises(Unavailable) as refused:
            await caller_of(gate, OLD_TOKEN)
        assert refused.value.retry_after_seconds
        assert gate.bearer(b"k" * 40, None) is not None
        assert gate.remote_keys is not None
        assert gate.remote_keys.problem


async def test_old_keys_stay_in_force_while_the_provider_is_down_but_not_for_ever(
    provider: Provider,
) -> None:
    clock = Clock()
    async with gate_of(provider, clock, jwks_max_stale_seconds=1000) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        provider.answer = sends(b"", 500)
        clock.advance(900)
        assert await caller_of(gate, OLD_TOKEN)
        clock.advance(200)
        with pytest.raises(Unavailable):
            await caller_of(gate, OLD_TOKEN)
        provider.answer = sends(document(old=OLD))
        clock.advance(60)
        assert await caller_of(gate, OLD_TOKEN)


async def test_a_slow_provider_is_waited_for_by_those_with_new_keys_alone(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R7, R11: others go on, and nobody waits for ever."""
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        monkeypatch.setattr(remote_keys, "FETCH_SECONDS", 0.3)
        provider.answer = provider.hangs
        clock.advance(60)
        done: list[Caller | None] = []

        async def wait() -> None:
            done.append(await caller_of(gate, NEW_TOKEN))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            assert await to_thread.run_sync(provider.asked.wait, DEADLINE_SECONDS)
            assert await caller_of(gate, OLD_TOKEN)
            assert done == []
        assert done == [None]
        assert "no whole answer" in str(gate.remote_keys and gate.remote_keys.problem)


def test_over_http_a_token_is_asked_to_come_again_until_the_provider_is_there() -> None:
    """A 401 would log everybody out while the provider restarts."""
    with running() as gone:
        url = gone.url
    clock, key = Clock(), "k" * 40
    operator = {"Authorization": f"Bearer {key}"}
    user = {"Authorization": f"Bearer {OLD_TOKEN.decode()}"}
    with serving(jwks_url=url, api_keys=key, clock=clock) as served, served.client() as api:
        answer = api.get("/sessions", headers=user)
        assert answer.json()["code"] == "unavailable"
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert api.get("/health/ready").status_code == 200
        found = api.get("/diagnostics", headers=operator).json()
        assert found["status"] == "fail"
        assert found["checks"][-1]["name"] == "identity provider"
        with running(int(url.rpartition(":")[2].partition("/")[0])):
            clock.advance(60)
            assert api.get("/sessions", headers=user).status_code == 200
        assert api.get("/sessions", headers=user).status_code == 200
        forged = {"Authorization": f"Bearer {NEW_TOKEN.decode()}"}
        assert api.get("/sessions", headers=forged).status_code == 401
        assert 'jwks_fetches_total{end="ok"} 1' in api.get("/metrics", headers=operator).text


def endless(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    while True:
        request.wfile.write(b" " * 65536)


def cut(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "100000")
    request.end_headers()
    request.wfile.write(document(new=NEW))


SECRET = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0", "kid": "new", "alg": "HS256"}
BAD: dict[str, Answer] = {
    "garbage": sends(b"\xff\x00 no JSON"),
    "no set": sends(b"[]"),
    "empty": sends(b""),
    "no keys": sends(b'{"keys": []}'),
    "a secret": sends(json.dumps({"keys": [SECRET]}).encode()),
    "a weak key": sends(document(new=rsa_key(1024))),
    "an error": sends(document(new=NEW), 500),
    "endless": endless,
    "cut": cut,
    "nested": sends(b'{"keys":' + b"[" * 100_000),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_changes_no_key(provider: Provider, name: str) -> None:
    clock = Clock()
    async with gate_of(provider, clock) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        provider.answer = BAD[name]
        clock.advance(60)
        assert await caller_of(gate, NEW_TOKEN) is None
        assert await caller_of(gate, OLD_TOKEN)
        assert gate.remote_keys is not None
        assert gate.remote_keys.fetches["failed"] == 1


async def test_a_redirect_is_not_followed(provider: Provider) -> None:
    with running() as other:
        other.answer = sends(document(new=NEW))
        clock = Clock()
        async with gate_of(provider, clock) as gate:
            assert await caller_of(gate, OLD_TOKEN)
            provider.answer = sends(b"", 302, Location=other.url)
            clock.advance(60)
            assert await caller_of(gate, NEW_TOKEN) is None
        assert other.requests == 0


async def test_no_token_chooses_its_algorithm(provider: Provider) -> None:
    """A public key is no secret of HS256, and `none` is no signature."""
    payload = {"sub": "alice", "exp": 4_000_000_000}
    forged = [
        raw_token({"alg": "HS256", "kid": "old"}, payload, hs256(pem(OLD))),
        raw_token({"alg": "none", "kid": "old"}, payload, lambda _: b""),
        raw_token({"alg": "RS256", "kid": "old"}, payload, lambda _: b"x" * 64),
        signed(NEW, "ES256", "old"),
    ]
    async with gate_of(provider, Clock()) as gate:
        assert await caller_of(gate, OLD_TOKEN)
        for token in forged:
            assert await caller_of(gate, token) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 600), ("max-age=120", 120), ("public, max-age=99999999", 3600), ("max-age=0", 60),
     ("no-store", 60), ("s-maxage=5, max-age=300", 300), ("max-age=x", 600)],
)  # fmt: skip
async def test_how_long_a_set_is_fresh_is_bounded(
    provider: Provider, header: str, seconds: float
) -> None:
    provider.answer = sends(document(old=OLD), Cache_Control=header)
    assert await RemoteKeys(provider.url, 1000, Clock())._refresh() == seconds


@pytest.mark.parametrize(
    "url",
    ["http://example.com/jwks", "ftp://x/y", "file:///etc/passwd", "https://u:p@x/y", "https://",
     "https://x/y#z", "https://x/a b", "x", "http://127.0.0.1.example.com/"],
)  # fmt: skip
def test_a_url_that_cannot_be_trusted_stops_the_start(url: str) -> None:
    with pytest.raises(CredentialsUnusable):
        RemoteKeys(url, 1000, FakeClock())

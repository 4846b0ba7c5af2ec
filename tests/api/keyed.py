"""Gateways with credentials, and the keys and tokens for tests of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from typing_extensions import override

from bamboo_gateway.credentials import gate
from bamboo_gateway.credentials.keyfile import KeyFile
from bamboo_gateway.credentials.keys import make_key
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.callers import Right
from bamboo_gateway.domain.clock import SystemClock
from tests.api.serving import SECONDS, Served, check_answer, serving
from tests.support.clients import local_client, local_request
from tests.support.frames import Frame, parse_frames
from tests.support.waiting import until

SECRET = "the secret of an issuer of tokens, of more than 32 bytes"


@dataclass
class Keyed:
    """A gateway with a keys file, and the file."""

    served: Served
    file: KeyFile

    def make(
        self,
        user_id: str | None,
        *rights: Right,
        expires_at: int | None = None,
    ) -> tuple[str, str]:
        """Make a key that the gateway knows already; return its id and the key."""
        key, text = add_key(self.file, user_id, *rights, expires_at=expires_at)
        if key.is_live(SystemClock().now_ms()):
            until(lambda: self.knows(text, user_id), "the key is known")
        return key.id, text

    def knows(self, key: str, user_id: str | None) -> bool:
        """Return whether the gateway asks for a credential, and accepts this one."""
        headers = bearer(key, **({"X-User-Id": "probe"} if user_id is None else {}))
        asks = self.get("/sessions/none").status_code == 401
        return asks and self.get("/sessions/none", headers).status_code in {403, 404}

    def revoke(self, key_id: str) -> None:
        self.file.change(
            lambda known: [replace(k, revoked_at=1) if k.id == key_id else k for k in known]
        )

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        return self.ask("GET", path, headers)

    def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any
    ) -> httpx.Response:
        url = f"{self.served.url}/api/v1{path}"
        response = local_request(method, url, headers=headers, timeout=SECONDS, **more)
        check_answer(response)
        return response


def add_key(
    file: KeyFile, user_id: str | None, *rights: Right, expires_at: int | None = None
) -> tuple[ApiKey, str]:
    """Put a key into a keys file, which a gateway reads when it starts, or later."""
    key_id, text, digest = make_key()
    allowed: frozenset[Right] = frozenset(rights or ("read", "write"))
    key = ApiKey(key_id, digest, user_id, allowed, "", 0, expires_at)
    file.change(lambda known: [*known, key])
    return key, text


def bearer(credential: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}", **more}


@contextmanager
def keyed(directory: Path, **settings: Any) -> Iterator[Keyed]:
    path = directory / "keys.json"
    KeyFile(path).change(lambda known: known)
    with serving_with(path, **settings) as gateway:
        yield gateway


@contextmanager
def serving_with(path: Path, **settings: Any) -> Iterator[Keyed]:
    """Run a gateway with a keys file, which need not exist."""
    # Tests wait for a key by asking with it: no number of failures is too many.
    settings = {"auth_failures_per_address": "", **settings}
    with looking_often(), serving(api_keys_file=path, **settings) as served:
        yield Keyed(served, KeyFile(path))


@contextmanager
def looking_often() -> Iterator[None]:
    """Let gateways notice a change of a file at once: only the tests' time depends on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "_LOOK_SECONDS", 0.01)
        yield


class LateClock(SystemClock):
    """Clocks that a test sets forward."""

    ahead_ms = 0

    @override
    def now_ms(self) -> int:
        return super().now_ms() + self.ahead_ms

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_ms / 1000


def token(**changed: Any) -> str:
    claims = {"sub": "alice", "exp": int(time.time()) + 600, **changed}
    return jwt.encode(claims, SECRET, "HS256")


@contextmanager
def watching(gateway: Keyed, path: str, headers: dict[str, str]) -> Iterator["Watcher"]:
    with (
        local_client(timeout=SECONDS) as client,
        client.stream("GET", f"{gateway.served.url}/api/v1{path}", headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        yield Watcher(response)


class Watcher:
    """A stream that somebody has open."""

    def __init__(self, response: httpx.Response) -> None:
        self._chunks = response.iter_bytes()
        self.received = b""

    def until(self, what: bytes) -> None:
        while what not in self.received:
            self.received += next(self._chunks)

    def to_end(self) -> list[Frame]:
        for chunk in self._chunks:
            self.received += chunk
        return parse_frames(self.received)[0]

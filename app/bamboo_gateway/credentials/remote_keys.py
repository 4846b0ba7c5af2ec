"""RemoteKeys: the JSON Web Key Set of an identity provider, read from its URL and kept in memory.

A task reads the set at the start and again when its cache headers say so, within bounds. A token
with an unknown `kid` has it read at once, at most every `_UNKNOWN_SECONDS`: a provider signs with a
new key soon after it has published it. While the provider is down or answers nonsense, the last
keys stay in force for `jwks_max_stale_seconds`; then no token is accepted any more. So a removed
key ends with the next good answer, and in any case within that time.

Everything about an answer is bounded: its time, its bytes, its redirects (none).
"""

import os
import re
import ssl
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from socket import SHUT_RDWR, socket
from time import monotonic
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

import anyio
import certifi
import structlog
from anyio import to_thread

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.key_sets import KeySet, key_set
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.limits import KiB

log = structlog.get_logger(__name__)

FETCH_SECONDS: Final = 5.0
"""How long the provider may take for a whole answer; a request with a new key waits for it."""

BYTES_MAX: Final = 256 * KiB
"""The largest set: a key has 0.5 KiB, or some with a chain of certificates."""

_FRESH_SECONDS: Final = 600.0
"""How long a set is fresh when its answer does not say."""
_FRESH_SECONDS_MIN: Final = 60.0
_FRESH_SECONDS_MAX: Final = 3600.0
"""A provider that says a day would keep a withdrawn key for a day."""

_UNKNOWN_SECONDS: Final = 10.0
"""How often an unknown `kid` has the set read again: anybody can send one."""

_RETRY_SECONDS: Final = 5.0
_RETRY_SECONDS_MAX: Final = 300.0
"""The first and the longest wait after a failure."""

_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=(\d{1,9})\b", re.IGNORECASE)
_NO_KEYS: Final[KeySet] = {}


class _Answer(NamedTuple):
    """A key set, and how long it is fresh."""

    keys: KeySet
    fresh_seconds: float


class _FetchError(Exception):
    """The set could not be read; the text is one line without anything of the answer."""


class RemoteKeys:
    """The keys of a provider.

    Args:
        url: Where the set is: https, or http on this machine.
        max_stale_seconds: How long the last keys stay in force while no set can be read.
        clock: Measures how old the keys are.

    Attributes:
        url: The URL, without its query.
        problem: Why the last attempt failed; None after a good one.
        fetches: The attempts that succeeded, and those that failed.

    Raises:
        CredentialsUnusable: The URL cannot be used.
    """

    def __init__(self, url: str, max_stale_seconds: float, clock: Clock) -> None:
        self._parts = _checked(url)
        self.url = self._parts._replace(query="", fragment="").geturl()
        self.problem: str | None = None
        self.fetches = {"ok": 0, "failed": 0}
        self._max_stale_seconds = max_stale_seconds
        self._clock = clock
        self._keys: KeySet = _NO_KEYS
        self._read_at: float | None = None
        self._asked_at: float | None = None
        self._flying: anyio.Event | None = None
        # A hanging name lookup keeps its thread; a second one lets the next attempt begin.
        self._threads = anyio.CapacityLimiter(2)

    @property
    def age_seconds(self) -> float | None:
        """How old the keys are; None: there are none yet."""
        return None if self._read_at is None else self._clock.monotonic() - self._read_at

    @property
    def value(self) -> KeySet:
        """The keys in force; none when there are none yet, or only too old ones."""
        age = self.age_seconds
        return self._keys if age is not None and age < self._max_stale_seconds else _NO_KEYS

    async def run(self) -> None:
        """Read the set now and whenever it is due, for ever."""
        retry = _RETRY_SECONDS
        while True:
            fresh = await self._refresh()
            if fresh is not None:
                retry = _RETRY_SECONDS
                await anyio.sleep(fresh)
            else:
                await anyio.sleep(retry)
                retry = min(2 * retry, _RETRY_SECONDS_MAX)

    async def look_for(self, kid: str | None) -> None:
        """Read the set again if it does not have this key, unless that was done just now.

        Calls at the same time wait for one answer, at most `FETCH_SECONDS`.
        """
        if kid is not None and kid in self.value:
            return
        if self._flying is not None:
            with anyio.move_on_after(FETCH_SECONDS):
                await self._flying.wait()
            return
        now = self._clock.monotonic()
        if self._asked_at is None or now - self._asked_at >= _UNKNOWN_SECONDS:
            await self._refresh()

    async def _refresh(self) -> float | None:
        """Read the set once. Return how long it is fresh; None after a failure."""
        while self._flying is not None:
            await self._flying.wait()
        self._flying = ended = anyio.Event()
        self._asked_at = self._clock.monotonic()
        try:
            answer = await self._fetched()
        except _FetchError as error:
            self.fetches["failed"] += 1
            if self.problem is None or self._read_at is None:
                log.warning("keys of the identity provider stay as they were", problem=str(error))
            self.problem = str(error)
            return None
        else:
            self.fetches["ok"] += 1
            if self.problem is not None or set(answer.keys) != set(self._keys):
                log.info("keys of the identity provider were read", keys=len(answer.keys))
            self.problem = None
            self._read_at = self._clock.monotonic()
            if _is_other(answer.keys, self._keys):
                self._keys = answer.keys
            return answer.fresh_seconds
        finally:
            self._flying = None
            ended.set()

    async def _fetched(self) -> _Answer:
        fetch = _Fetch(self._parts)
        try:
            with anyio.fail_after(FETCH_SECONDS):
                return await to_thread.run_sync(
                    fetch, abandon_on_cancel=True, limiter=self._threads
                )
        except TimeoutError as error:
            raise _FetchError(f"no whole answer within {FETCH_SECONDS:g} s") from error
        finally:
            fetch.abort()


class _Fetch:
    """One GET of a set, in a thread. `abort` ends it from outside."""

    def __init__(self, parts: SplitResult) -> None:
        self._parts = parts
        self._socket: socket | None = None
        self._until = monotonic() + FETCH_SECONDS
        self._is_aborted = False

    def __call__(self) -> _Answer:
        """Read the set.

        Raises:
            _FetchError: It cannot be read.
        """
        try:
            with closing(_connection_to(self._parts)) as connection:
                connection.connect()
                # The connection forgets its socket when the answer is its last one.
                self._socket = connection.sock
                target = self._parts.path or "/"
                if self._parts.query:
                    target += "?" + self._parts.query
                connection.request("GET", target, headers=_HEADERS)
                with connection.getresponse() as response:
                    if response.status != 200:
                        raise _FetchError(f"the provider answered with status {response.status}")
                    data = self._body(response)
                    caching = response.getheader("Cache-Control") or ""
        except (OSError, HTTPException, ValueError) as error:
            raise _FetchError(f"the provider cannot be read: {type(error).__name__}") from error
        try:
            return _Answer(key_set(data), _fresh_seconds(caching))
        except ValueError as error:
            raise _FetchError(f"the answer is not usable: {error}") from error

    def abort(self) -> None:
        """End a request that nobody waits for any more."""
        self._is_aborted = True
        if self._socket is not None:
            with suppress(OSError):  # it has ended
                self._socket.shutdown(SHUT_RDWR)

    def _body(self, response: HTTPResponse) -> bytes:
        data = bytearray()
        while piece := response.read1(16 * KiB):
            data += piece
            if len(data) > BYTES_MAX:
                raise _FetchError(f"the answer is larger than {BYTES_MAX} bytes")
            if self._is_aborted or monotonic() > self._until:
                raise _FetchError(f"no whole answer within {FETCH_SECONDS:g} s")
        if response.length:
            raise _FetchError("the answer was cut")
        return bytes(data)


_HEADERS: Final = {"Accept": "application/json, application/jwk-set+json", "Connection": "close"}


def _connection_to(parts: SplitResult) -> HTTPConnection:
    assert parts.hostname is not None  # `_checked` has looked
    if parts.scheme == "http":
        return HTTPConnection(parts.hostname, parts.port, timeout=FETCH_SECONDS)
    return HTTPSConnection(
        parts.hostname, parts.port, timeout=FETCH_SECONDS, context=_tls_context()
    )


def _tls_context() -> ssl.SSLContext:
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    return ssl.create_default_context(
        cafile=file or (None if folder else certifi.where()),
        capath=None if file else folder or None,
    )


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise CredentialsUnusable("jwks_url is no URL") from error
    if parts.scheme not in ("http", "https") or not host or not url.isascii():
        raise CredentialsUnusable("jwks_url must be an https URL")
    if not url.isprintable() or " " in url:
        raise CredentialsUnusable("jwks_url has a character that no URL has")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise CredentialsUnusable("jwks_url must have no user, password or fragment")
    if parts.scheme == "http" and not _is_loopback(host):
        raise CredentialsUnusable(
            "jwks_url must begin with https: whoever changes the answer on its way may log in as "
            "anybody"
        )
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _fresh_seconds(cache_control: str) -> float:
    lowered = cache_control.lower()
    if "no-store" in lowered or "no-cache" in lowered:
        return _FRESH_SECONDS_MIN
    found = _MAX_AGE.search(lowered)
    seconds = float(found.group(1)) if found else _FRESH_SECONDS
    return min(max(seconds, _FRESH_SECONDS_MIN), _FRESH_SECONDS_MAX)


def _is_other(ours: KeySet, theirs: KeySet) -> bool:
    """Return whether two sets differ. Equal ones keep their object, with the verified tokens."""
    return ours.keys() != theirs.keys() or any(
        ours[kid].algorithm != theirs[kid].algorithm
        or ours[kid].key.public_numbers() != theirs[kid].key.public_numbers()
        for kid in ours
    )

"""How often a caller may ask: request rates as pure ASGI, told in `RateLimit` fields.

Counted with the library `limits` by its sliding window counter: two numbers a caller, whatever the
limit is (its moving window would keep a time for each request), and no burst of twice the limit at
a window's edge, as a fixed window allows. A stream costs one request, when it is opened.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` says what there
is, `RateLimit` what is left. Of what all callers share only the policy is told: what is left of it
would tell each what the others do.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from limits import RateLimitItem, parse_many
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.limits import KNOWN_CREDENTIALS_MAX, RATE_KEYS_MAX
from bamboo_gateway.api.problems import problem_response
from bamboo_gateway.api.security.authentication import OPEN_PATHS
from bamboo_gateway.api.security.rate_windows import Windows
from bamboo_gateway.api.security.url_credentials import LINK, TICKET
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.networks import network_of
from bamboo_gateway.settings import Settings

_ALL: Final = "all callers"
"""The key of what is counted for everybody together; no caller's id has a space."""


class Policy(NamedTuple):
    """One limit as it is told: its name, how much in how many seconds, and the setting it is of."""

    name: str
    item: RateLimitItem
    setting: str

    @staticmethod
    def of(who: str, setting: str, value: str | None) -> "list[Policy]":
        """Gives the policies of a setting like `100/second; 1000/minute`."""
        items = parse_many(value) if value else []
        return [Policy(f"{who}-{item.get_expiry()}s", item, setting) for item in items]


class Meter:
    """Counts what belongs to keys, against the policies of each."""

    def __init__(self, clock: Clock) -> None:
        self._windows = Windows(clock, RATE_KEYS_MAX)
        self._limiter = SlidingWindowCounterRateLimiter(self._windows)

    def take(self, wanted: Sequence[tuple[Policy, str]]) -> Policy | None:
        """Counts one against each policy for its key, or, if one is used up, gives that one."""
        for policy, key in wanted:
            if not self.has_room(policy, key):
                return policy
        for policy, key in wanted:
            self._limiter.hit(policy.item, key)
        return None

    def has_room(self, policy: Policy, key: str) -> bool:
        """Tells whether one more fits; counts nothing."""
        return self._limiter.test(policy.item, key)

    def remaining(self, policy: Policy, key: str) -> int:
        """Gives how many more fit now."""
        return self._limiter.get_window_stats(policy.item, key).remaining

    def retry_after(self, policy: Policy, key: str) -> int:
        """Gives the whole seconds after which one more fits."""
        item = policy.item
        free_in = self._windows.free_in(item.key_for(key), item.amount, item.get_expiry())
        return math.floor(free_in) + 1

    def resets_in(self, policy: Policy, key: str) -> int:
        """Gives the whole seconds that the present window still has."""
        item = policy.item
        _, left, _, _ = self._windows.get_sliding_window(item.key_for(key), item.get_expiry())
        return math.ceil(left)


class RateLimit:
    """Answers 429 to a caller that asks too often, and tells each what it has left.

    Stands behind the authentication. What needs no credential is free. Who comes without one, to a
    gateway that asks for none, is not told from others: only what all share is counted for it.
    """

    def __init__(self, app: ASGIApp, settings: Settings, clock: Clock) -> None:
        self._app = app
        self._meter = Meter(clock)
        self._own = Policy.of("caller", "rate_limit_per_caller", settings.rate_limit_per_caller)
        self._shared = Policy.of("all", "rate_limit_in_all", settings.rate_limit_in_all)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        wanted = self._wanted(scope[CALLER])
        if not wanted:
            await self._app(scope, receive, send)
            return
        used_up = self._meter.take(wanted)
        fields = self._fields(wanted)

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *fields]
            await send(message)

        if used_up is None:
            await self._app(scope, receive, send_with_fields)
            return
        refusal = self._refusal(used_up, dict(wanted)[used_up])
        await problem_response(refusal, scope)(scope, receive, send_with_fields)

    def _wanted(self, caller: Caller) -> list[tuple[Policy, str]]:
        wanted = [(policy, _ALL) for policy in self._shared]
        if caller.id != LOCAL_CALLER.id:
            wanted = [*((policy, caller.id) for policy in self._own), *wanted]
        return wanted

    def _fields(self, wanted: Sequence[tuple[Policy, str]]) -> list[tuple[bytes, bytes]]:
        policies = ", ".join(
            f'"{policy.name}";q={policy.item.amount};w={policy.item.get_expiry()}'
            for policy, _ in wanted
        )
        left = ", ".join(
            f'"{policy.name}";r={self._meter.remaining(policy, key)}'
            f";t={self._meter.resets_in(policy, key)}"
            for policy, key in wanted
            if key != _ALL
        )
        fields = [(b"ratelimit-policy", policies.encode("ascii"))]
        return [*fields, (b"ratelimit", left.encode("ascii"))] if left else fields

    def _refusal(self, policy: Policy, key: str) -> LimitReached:
        who = "All callers together" if key == _ALL else "A caller"
        seconds = self._meter.retry_after(policy, key)
        return LimitReached(
            f"{who} may make {policy.item.amount} requests in {policy.item.get_expiry()} s "
            f"({policy.setting}); wait {seconds} s, or raise it.",
            code="rate-limited",
            retry_after_seconds=seconds,
            extra={"violated-policies": [policy.name]},
        )


class FailureLimit:
    """Answers 429 to an address from which too many wrong or no credentials came.

    Stands before the authentication, so that from then on guesses are not even looked at. Behind a
    proxy all clients have its one address: so a header or link that was right before passes, and a
    stranger who guesses locks out nobody who is at work. A ticket passes too: it is signed, so
    there is nothing to guess, and EventSource does not come back after a 429.
    """

    def __init__(self, app: ASGIApp, settings: Settings, clock: Clock) -> None:
        self._app = app
        self._meter = Meter(clock)
        setting = "auth_failures_per_address"
        self._policies = Policy.of("address", setting, settings.auth_failures_per_address)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or not self._policies:
            await self._app(scope, receive, send)
            return
        key, credential = _address(scope), _credential(scope)
        if not (credential in self._known or (credential is None and TICKET in scope)):
            for policy in self._policies:
                if not self._meter.has_room(policy, key):
                    refusal = self._refusal(policy, key)
                    await problem_response(refusal, scope)(scope, receive, send)
                    return

        async def send_watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    self._meter.take([(policy, key) for policy in self._policies])
                    self._forget(credential)
                elif credential is not None and CALLER in scope:
                    self._remember(credential)
            await send(message)

        await self._app(scope, receive, send_watched)

    def _remember(self, credential: bytes) -> None:
        self._known[credential] = None
        self._known.move_to_end(credential)
        if len(self._known) > KNOWN_CREDENTIALS_MAX:
            self._known.popitem(last=False)

    def _forget(self, credential: bytes | None) -> None:
        # It has been revoked, or has expired.
        if credential is not None:
            self._known.pop(credential, None)

    def _refusal(self, policy: Policy, key: str) -> LimitReached:
        seconds = self._meter.retry_after(policy, key)
        return LimitReached(
            f"{policy.item.amount} requests in {policy.item.get_expiry()} s came from this address "
            f"without a valid credential ({policy.setting}); wait {seconds} s.",
            code="rate-limited",
            retry_after_seconds=seconds,
            extra={"violated-policies": [policy.name]},
        )


def _address(scope: Scope) -> str:
    return network_of(scope["client"][0] if scope.get("client") else "")


def _credential(scope: Scope) -> bytes | None:
    """Gives a digest of what credentials come in, but tickets; None when there is nothing."""
    sent = [value for name, value in scope["headers"] if name in {b"authorization", b"cookie"}]
    if (link := scope.get(LINK)) is not None:
        sent.append(link.encode("utf-8", "surrogateescape"))
    return sha256(b"\0".join(sent)).digest() if sent else None

"""Request rates: a caller's and everybody's requests, and an address's failed credentials.

Both count with a sliding window counter: two numbers per caller, whatever the limit is, and no
burst of twice the limit at the edge of a window, as a fixed window allows. A stream costs one
request, when it is opened. Routes that need no credential are free (`middleware.Admission`).

The answer's fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy` names
the limits, `RateLimit` what is left of each. The gateway sends only the policy of a limit that all
callers share: what is left of it would tell each caller what the others do.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from math import ceil
from typing import Final, NamedTuple

from limits import RateLimitItem, parse_many
from starlette.types import Message, Scope, Send

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.limits import KNOWN_CREDENTIALS_MAX, RATE_KEYS_MAX
from bamboo_gateway.api.security.rate_counter import KeyRate, RateCounter
from bamboo_gateway.api.security.sliding_window import Reading
from bamboo_gateway.api.security.url_credentials import SHARE, TICKET
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.networks import network_of
from bamboo_gateway.domain.rates import SharedCounts
from bamboo_gateway.settings import Settings

Fields = list[tuple[bytes, bytes]]

_ALL: Final = "all callers"
"""The key of what is counted for all callers together; no caller's id has a space."""


class Policy(NamedTuple):
    """One rate as the answer's fields name it.

    Attributes:
        name: Its name in `RateLimit-Policy`.
        item: How many requests in how many seconds.
        setting: The setting that it comes from.
    """

    name: str
    item: RateLimitItem
    setting: str

    @staticmethod
    def parse(who: str, setting: str, value: str | None) -> "list[Policy]":
        """Return the policies of a setting like `100/second; 1000/minute`."""
        items = parse_many(value) if value else []
        return [Policy(f"{who}-{item.get_expiry()}s", item, setting) for item in items]


class RateLimit:
    """Refuse a caller that asks too often, and tell each caller its limits in every answer.

    A gateway that asks for no credential cannot tell its callers apart: there it applies only the
    rate that all callers share.

    Args:
        settings: The rates.
        clock: Divides the windows.
        shared: The counts of all gateways; None: this one is alone.
    """

    def __init__(
        self, settings: Settings, clock: Clock, shared: SharedCounts | None = None
    ) -> None:
        self._counter = RateCounter(clock, RATE_KEYS_MAX, shared)
        self._own = Policy.parse("caller", "rate_limit_per_caller", settings.rate_limit_per_caller)
        self._shared = Policy.parse("all", "rate_limit_in_all", settings.rate_limit_in_all)

    async def count(self, caller: Caller) -> tuple[Fields, LimitReached | None]:
        """Count a request; return the fields of its answer, and why it is refused, if it is."""
        policies = self._policies_of(caller)
        if not policies:
            return [], None
        exceeded, readings = await self._counter.count(_rates(policies))
        refusal = None
        if exceeded is not None:
            refusal = _refused_rate(*policies[exceeded], readings[exceeded])
        return _fields(policies, readings), refusal

    def forget(self, caller: Caller) -> None:
        """Forget how often a caller has asked."""
        self._counter.forget([KeyRate(policy.item, caller.id) for policy in self._own])

    def _policies_of(self, caller: Caller) -> list[tuple[Policy, str]]:
        """Return the policies that a caller's request counts against, each with its key."""
        policies = [(policy, _ALL) for policy in self._shared]
        if caller.id != LOCAL_CALLER.id:
            policies = [*((policy, caller.id) for policy in self._own), *policies]
        return policies


class FailureLimit:
    """Refuse an address that sent too many requests without a valid credential.

    This is checked before the credential, so that the gateway does not even look at further
    guesses. Behind a proxy all clients have the proxy's address: a header or share link that was
    valid before passes, so that a stranger who guesses locks out no active caller. A ticket
    passes too: it is signed, so there is nothing to guess, and EventSource does not reconnect
    after a 429.

    Where gateways count together, one of them learns with the next failure that it sees of an
    address that the address has failed too often elsewhere. So a request that does not fail costs
    no question.

    Args:
        settings: The rates.
        clock: Divides the windows.
        shared: The counts of all gateways; None: this one is alone.
    """

    def __init__(
        self, settings: Settings, clock: Clock, shared: SharedCounts | None = None
    ) -> None:
        self._clock = clock
        self._is_shared = shared is not None
        self._counter = RateCounter(clock, RATE_KEYS_MAX, shared)
        setting = "auth_failures_per_address"
        self._policies = Policy.parse("address", setting, settings.auth_failures_per_address)
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._refused: OrderedDict[str, _Refused] = OrderedDict()

    def check(self, scope: Scope) -> None:
        """Refuse a request of an address that has failed too often.

        Raises:
            LimitReached: The address has failed too often.
        """
        if self._counter.is_empty:
            return  # nobody has failed
        credential = _credential_digest(scope)
        if credential in self._known or (credential is None and TICKET in scope):
            return
        address = _address(scope)
        if (refused := self._refused.get(address)) is not None:
            wait = ceil(refused.until - self._clock.monotonic())
            if wait > 0:
                raise _refused_address(refused.policy, wait)
            del self._refused[address]
        rates = self._rates_of(address)
        if (number := self._counter.test(rates)) is not None:
            policy = self._policies[number]
            wait = self._counter.read(rates[number]).retry_after(policy.item)
            raise _refused_address(policy, wait)

    def counting(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that counts the answer if it is a 401."""
        credential = _credential_digest(scope)

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    await self._count(_address(scope))
                    self._forget(credential)
                elif credential is not None and CALLER in scope:
                    self._remember(credential)
            await send(message)

        return send_and_count

    def _remember(self, credential: bytes) -> None:
        self._known[credential] = None
        self._known.move_to_end(credential)
        if len(self._known) > KNOWN_CREDENTIALS_MAX:
            self._known.popitem(last=False)

    def _forget(self, credential: bytes | None) -> None:
        # The credential has been revoked, or has expired.
        if credential is not None:
            self._known.pop(credential, None)

    async def _count(self, address: str) -> None:
        _, readings = await self._counter.count(self._rates_of(address))
        full = [
            _Refused(policy, self._clock.monotonic() + reading.retry_after(policy.item))
            for policy, reading in zip(self._policies, readings, strict=True)
            if reading.used >= policy.item.amount
        ]
        if full and self._is_shared:
            self._refused[address] = max(full, key=lambda refused: refused.until)
            self._refused.move_to_end(address)
            if len(self._refused) > RATE_KEYS_MAX:
                self._refused.popitem(last=False)

    def _rates_of(self, address: str) -> list[KeyRate]:
        return [KeyRate(policy.item, address) for policy in self._policies]


class _Refused(NamedTuple):
    """An address that is refused until a moment of the monotonic clock."""

    policy: Policy
    until: float


def _rates(policies: Sequence[tuple[Policy, str]]) -> list[KeyRate]:
    return [KeyRate(policy.item, key) for policy, key in policies]


def _fields(policies: Sequence[tuple[Policy, str]], readings: Sequence[Reading]) -> Fields:
    names = ", ".join(
        f'"{policy.name}";q={policy.item.amount};w={policy.item.get_expiry()}'
        for policy, _ in policies
    )
    left = ", ".join(
        f'"{policy.name}";r={reading.remaining(policy.item)};t={reading.resets_in()}'
        for (policy, key), reading in zip(policies, readings, strict=True)
        if key != _ALL
    )
    fields = [(b"ratelimit-policy", names.encode("ascii"))]
    return [*fields, (b"ratelimit", left.encode("ascii"))] if left else fields


def _refused_rate(policy: Policy, key: str, reading: Reading) -> LimitReached:
    amount, seconds = policy.item.amount, policy.item.get_expiry()
    who = "for all callers together" if key == _ALL else "per caller"
    wait = reading.retry_after(policy.item)
    return _rate_limited(
        policy,
        f"Limit reached: {amount} requests in {seconds} s {who} ({policy.setting}). "
        f"Retry in {wait} s.",
        wait,
    )


def _refused_address(policy: Policy, wait: int) -> LimitReached:
    amount, seconds = policy.item.amount, policy.item.get_expiry()
    return _rate_limited(
        policy,
        f"Limit reached: {amount} requests in {seconds} s without a valid credential from this "
        f"address ({policy.setting}). Retry in {wait} s.",
        wait,
    )


def _rate_limited(policy: Policy, detail: str, seconds: int) -> LimitReached:
    return LimitReached(
        detail,
        code="rate-limited",
        retry_after_seconds=seconds,
        extra={"violated-policies": [policy.name]},
    )


def _address(scope: Scope) -> str:
    return network_of(scope["client"][0] if scope.get("client") else "")


def _credential_digest(scope: Scope) -> bytes | None:
    """Return a digest of the request's credentials other than tickets, or None without any."""
    sent = [value for name, value in scope["headers"] if name in {b"authorization", b"cookie"}]
    if (token := scope.get(SHARE)) is not None:
        sent.append(token.encode("utf-8", "surrogateescape"))
    return sha256(b"\0".join(sent)).digest() if sent else None

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
from typing import Final, NamedTuple

from limits import RateLimitItem, parse_many
from starlette.types import Message, Scope, Send

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.limits import KNOWN_CREDENTIALS_MAX, RATE_KEYS_MAX
from bamboo_gateway.api.security.sliding_window import SlidingWindowCounter
from bamboo_gateway.api.security.url_credentials import SHARE, TICKET
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import LimitReached
from bamboo_gateway.domain.networks import network_of
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
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._counter = SlidingWindowCounter(clock, RATE_KEYS_MAX)
        self._own = Policy.parse("caller", "rate_limit_per_caller", settings.rate_limit_per_caller)
        self._shared = Policy.parse("all", "rate_limit_in_all", settings.rate_limit_in_all)

    def count(self, caller: Caller) -> tuple[Fields, LimitReached | None]:
        """Count a request; return the fields of its answer, and why it is refused, if it is."""
        policies = self._policies_of(caller)
        if not policies:
            return [], None
        exceeded = _count(self._counter, policies)
        refusal = self._refusal(exceeded, dict(policies)[exceeded]) if exceeded else None
        return self._fields(policies), refusal

    def forget(self, caller: Caller) -> None:
        """Forget how often a caller has asked."""
        for policy in self._own:
            self._counter.forget(policy.item, caller.id)

    def _policies_of(self, caller: Caller) -> list[tuple[Policy, str]]:
        """Return the policies that a caller's request counts against, each with its key."""
        policies = [(policy, _ALL) for policy in self._shared]
        if caller.id != LOCAL_CALLER.id:
            policies = [*((policy, caller.id) for policy in self._own), *policies]
        return policies

    def _fields(self, policies: Sequence[tuple[Policy, str]]) -> Fields:
        names = ", ".join(
            f'"{policy.name}";q={policy.item.amount};w={policy.item.get_expiry()}'
            for policy, _ in policies
        )
        left = ", ".join(
            f'"{policy.name}";r={self._counter.remaining(policy.item, key)}'
            f";t={self._counter.resets_in(policy.item)}"
            for policy, key in policies
            if key != _ALL
        )
        fields = [(b"ratelimit-policy", names.encode("ascii"))]
        return [*fields, (b"ratelimit", left.encode("ascii"))] if left else fields

    def _refusal(self, policy: Policy, key: str) -> LimitReached:
        amount, seconds = policy.item.amount, policy.item.get_expiry()
        who = "for all callers together" if key == _ALL else "per caller"
        wait = self._counter.retry_after(policy.item, key)
        return _rate_limited(
            policy,
            f"Limit reached: {amount} requests in {seconds} s {who} ({policy.setting}). "
            f"Retry in {wait} s.",
            wait,
        )


class FailureLimit:
    """Refuse an address that sent too many requests without a valid credential.

    This is checked before the credential, so that the gateway does not even look at further
    guesses. Behind a proxy all clients have the proxy's address: a header or share link that was
    valid before passes, so that a stranger who guesses locks out no active caller. A ticket
    passes too: it is signed, so there is nothing to guess, and EventSource does not reconnect
    after a 429.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._counter = SlidingWindowCounter(clock, RATE_KEYS_MAX)
        setting = "auth_failures_per_address"
        self._policies = Policy.parse("address", setting, settings.auth_failures_per_address)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def check(self, scope: Scope) -> None:
        """Refuse a request of an address that has failed too often.

        Raises:
            LimitReached: The address has failed too often.
        """
        if not len(self._counter):
            return  # nobody has failed
        credential = _credential_digest(scope)
        if credential in self._known or (credential is None and TICKET in scope):
            return
        address = _address(scope)
        for policy in self._policies:
            if not self._counter.test(policy.item, address):
                raise self._refusal(policy, address)

    def counting(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that counts the answer if it is a 401."""
        credential = _credential_digest(scope)

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] == 401:
                    address = _address(scope)
                    _count(self._counter, [(policy, address) for policy in self._policies])
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

    def _refusal(self, policy: Policy, address: str) -> LimitReached:
        amount, seconds = policy.item.amount, policy.item.get_expiry()
        wait = self._counter.retry_after(policy.item, address)
        return _rate_limited(
            policy,
            f"Limit reached: {amount} requests in {seconds} s without a valid credential from this "
            f"address ({policy.setting}). Retry in {wait} s.",
            wait,
        )


def _count(counter: SlidingWindowCounter, policies: Sequence[tuple[Policy, str]]) -> Policy | None:
    """Count one request against every policy, or against none when one is used up.

    Returns:
        The policy that is used up.
    """
    for policy, key in policies:
        if not counter.test(policy.item, key):
            return policy
    for policy, key in policies:
        counter.hit(policy.item, key)
    return None


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

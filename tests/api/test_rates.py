"""Request rates: who is counted, what the answers' fields say, and when a limit ends."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from starlette.types import Message, Receive, Scope, Send

from bamboo_gateway.api.caller import CALLER
from bamboo_gateway.api.error_forms import NO_FORMS
from bamboo_gateway.api.middleware import Admission
from bamboo_gateway.api.security.rate_limits import FailureLimit, RateLimit
from bamboo_gateway.api.security.sliding_window import SlidingWindowCounter
from bamboo_gateway.api.security.url_credentials import TICKET
from bamboo_gateway.domain.callers import LOCAL_CALLER, Caller
from bamboo_gateway.settings import Settings, SettingsError, load_settings
from tests.api.serving import Served, refused, serving
from tests.faults.wire import refusals
from tests.support.clocks import FakeClock

KEY = {"Authorization": "Bearer right"}
WRONG = {"Authorization": "Bearer wrong"}


class Asked:
    """The middleware before an app that does nothing but answer, and what came of it.

    Args:
        limit: The class of the only limit.
        settings: What differs from the defaults.
    """

    def __init__(self, limit: type[FailureLimit | RateLimit], **settings: Any) -> None:
        self.clock = FakeClock()
        self.problems: dict[str, int] = {"rate-limited": 0}
        made = limit(Settings(**settings), self.clock)
        self.app = Admission(
            self._answer,
            failures=made if isinstance(made, FailureLimit) else None,
            authentication=_Known(),  # type: ignore[arg-type]
            rates=made if isinstance(made, RateLimit) else None,
        )
        self._status = 200

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self._status, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def ask(
        self,
        caller: Caller | None = None,
        path: str = "/x",
        status: int = 200,
        host: str = "1.2.3.4",
        headers: dict[str, str] | None = None,
        ticket: str | None = None,
    ) -> tuple[int, dict[str, str]]:
        """Ask once; return the status and the headers."""
        self._status = status
        starts: list[Message] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                starts.append(message)

        async def receive() -> Message:
            raise NotImplementedError

        scope: Scope = {
            "type": "http",
            "path": path,
            "client": (host, 1),
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "app": SimpleNamespace(
                state=SimpleNamespace(problems=self.problems, error_forms=NO_FORMS)
            ),
        }
        if ticket is not None:
            scope[TICKET] = ticket
        if caller is not None:
            scope[CALLER] = caller
        await self.app(scope, receive, send)
        (start,) = starts
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}


class _Known:
    """Authentication that takes the caller that the test has put into the scope."""

    async def caller_of(self, scope: Scope) -> Caller:
        caller: Caller = scope.get(CALLER, LOCAL_CALLER)
        return caller


ANN, BOB = Caller("ann", "ann"), Caller("bob", "bob")


async def test_a_caller_over_its_rate_gets_429_until_retry_after() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="3/10second")
    for left in (2, 1, 0):
        status, headers = await asked.ask(ANN)
        assert status == 200
        assert headers["ratelimit"].startswith(f'"caller-10s";r={left};t=')
        assert headers["ratelimit-policy"] == '"caller-10s";q=3;w=10'
    status, headers = await asked.ask(ANN)
    assert status == 429
    assert headers["ratelimit"].startswith('"caller-10s";r=0;t=')
    assert asked.problems["rate-limited"] == 1
    asked.clock.advance(int(headers["retry-after"]))
    assert (await asked.ask(ANN))[0] == 200


async def test_each_caller_has_its_own_rate() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="1/minute")
    assert [(await asked.ask(who))[0] for who in (ANN, BOB, ANN, BOB)] == [200, 200, 429, 429]


async def test_the_shared_rate_counts_all_callers_and_its_remainder_is_not_sent() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="2/minute", rate_limit_in_all="3/minute")
    answers = [await asked.ask(who) for who in (ANN, BOB, LOCAL_CALLER, ANN)]
    assert [status for status, _ in answers] == [200, 200, 200, 429]
    assert answers[0][1]["ratelimit-policy"] == '"caller-60s";q=2;w=60, "all-60s";q=3;w=60'
    assert '"all' not in answers[0][1]["ratelimit"]
    assert "ratelimit" not in answers[2][1]


async def test_a_refused_request_does_not_count_against_the_shared_rate() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="1/minute", rate_limit_in_all="2/minute")
    assert [(await asked.ask(ANN))[0] for _ in range(5)] == [200, 429, 429, 429, 429]
    assert (await asked.ask(BOB))[0] == 200


async def test_each_of_several_rates_applies() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="2/second; 3/minute")
    statuses = []
    for _ in range(4):
        statuses.append((await asked.ask(ANN))[0])
        asked.clock.advance(2)
    assert statuses == [200, 200, 200, 429]


async def test_health_routes_and_callers_without_credentials_are_free() -> None:
    asked = Asked(RateLimit, rate_limit_per_caller="1/day", rate_limit_in_all="1/day")
    for path in ("/health/live", "/api/v1/health/ready"):
        assert [(await asked.ask(ANN, path))[0] for _ in range(3)] == [200] * 3
    free = Asked(RateLimit, rate_limit_per_caller="1/day")
    answers = [await free.ask(LOCAL_CALLER) for _ in range(3)]
    assert answers == [(200, {})] * 3


async def test_failures_of_an_address_end_in_429_except_for_known_credentials() -> None:
    asked = Asked(FailureLimit, auth_failures_per_address="2/minute")
    assert (await asked.ask(headers=KEY))[0] == 200
    assert (await asked.ask(status=401, headers=WRONG))[0] == 401
    assert (await asked.ask(status=401))[0] == 401
    for headers in (WRONG, None, {"Authorization": "Bearer new"}, {"Cookie": "bamboo=new"}):
        status, answered = await asked.ask(headers=headers)
        assert status == 429
        assert 1 <= int(answered["retry-after"]) <= 61
    assert (await asked.ask(headers=KEY))[0] == 200
    assert (await asked.ask(ticket="signed"))[0] == 200
    assert (await asked.ask(headers=WRONG, ticket="signed"))[0] == 429
    assert (await asked.ask(headers=WRONG, path="/health/live"))[0] == 200
    assert (await asked.ask(status=401, headers=WRONG, host="4.3.2.1"))[0] == 401
    asked.clock.advance(61)
    assert (await asked.ask(headers={"Authorization": "Bearer new"}))[0] == 200


async def test_a_known_credential_that_becomes_invalid_is_limited_again() -> None:
    asked = Asked(FailureLimit, auth_failures_per_address="2/minute")
    assert (await asked.ask(headers=KEY))[0] == 200
    statuses = [(await asked.ask(status=401, headers=KEY))[0] for _ in range(4)]
    assert statuses == [401, 401, 429, 429]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.5", False),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
async def test_an_ipv6_network_is_one_address(one: str, other: str, is_same: bool) -> None:
    asked = Asked(FailureLimit, auth_failures_per_address="1/minute")
    assert (await asked.ask(status=401, host=one))[0] == 401
    assert ((await asked.ask(status=401, host=other))[0] == 429) == is_same


def test_the_counter_is_bounded_and_keeps_a_key_that_goes_on_trying() -> None:
    clock = FakeClock()
    counter = SlidingWindowCounter(clock, keys_max=100)
    item = parse("1/minute")
    assert counter.hit(item, "eager")
    for number in range(1000):
        assert counter.hit(item, f"caller-{number}")
        assert not counter.hit(item, "eager")
    assert len(counter) == 100
    # Forgotten, so counted from the beginning.
    assert counter.hit(item, "caller-0")


def test_a_window_slides_so_that_no_span_of_its_length_has_twice_the_limit() -> None:
    clock = FakeClock()
    counter = SlidingWindowCounter(clock, keys_max=10)
    item = parse("100/10second")
    moments: list[float] = []
    for _ in range(600):
        if counter.hit(item, "caller"):
            moments.append(clock.monotonic())
        clock.advance(0.05)
    for begin in moments:
        assert sum(begin <= moment < begin + 10 for moment in moments) <= 110
    assert len(moments) >= 270


@given(
    rate=st.sampled_from(["1/second", "3/second", "5/10second", "40/minute"]),
    steps=st.lists(st.floats(0, 25), max_size=60),
)
def test_requests_of_the_window_before_count_for_what_the_sliding_window_covers(
    rate: str, steps: list[float]
) -> None:
    """The same formula as `SlidingWindowCounterRateLimiter` of `limits` 5.8, computed again."""
    clock, item = FakeClock(), parse(rate)
    counter, requests = SlidingWindowCounter(clock, keys_max=10), Counter[int]()
    for step in steps:
        clock.advance(step)
        now, length = clock.monotonic(), item.get_expiry()
        window, left = int(now // length), length - now % length
        weighted = requests[window - 1] * left / length + requests[window]
        is_free = weighted < item.amount
        assert counter.test(item, "a") == is_free
        assert counter.read(item, "a").remaining(item) == max(0, item.amount - int(weighted))
        assert counter.hit(item, "a") == is_free
        requests[window] += is_free
        if not is_free:
            clock.advance(counter.read(item, "a").retry_after(item))
            assert counter.test(item, "a")


def test_a_wrong_rate_stops_the_start_and_an_empty_one_means_no_limit() -> None:
    for wrong in ("fast", "0/second", "1/second; 2/second", "-1/second", "1/second, fast"):
        with pytest.raises(SettingsError, match="rate_limit_in_all"):
            load_settings(rate_limit_in_all=wrong)
    assert load_settings(rate_limit_per_caller="").rate_limit_per_caller is None


def healthy(served: Served, headers: dict[str, str]) -> bool:
    with served.client(headers=headers) as client:
        return client.get("/sessions").status_code == 200


def test_the_gateway_limits_a_key_and_counts_it_and_serves_others() -> None:
    with serving(api_keys=("right", "other"), rate_limit_per_caller="5/day") as served:
        with served.client(headers=KEY) as api:
            statuses = {api.get("/sessions").status_code for _ in range(12)}
            assert statuses == {200, 429}
            problem = refused(api.get("/sessions"), 429, "rate-limited")
            assert problem["violated-policies"] == ["caller-86400s"]
            assert api.get("/health/ready").status_code == 200
        other = {"Authorization": "Bearer other"}
        assert healthy(served, other)
        with served.client(headers=other) as api:
            assert refusals(api, "rate-limited") >= 7


def test_a_stream_costs_one_request_and_has_the_rate_fields() -> None:
    with (
        serving(api_keys=("right",), rate_limit_per_caller="1000/day") as served,
        served.client(headers=KEY) as api,
    ):
        api.post("/sessions", json={"id": "s"})
        with api.stream("GET", "/stream/s") as stream:
            before = left(stream)
            for _ in range(3):
                api.post("/sessions/s/events", json={"type": "custom", "name": "n", "value": 1})
            assert left(api.get("/sessions/s")) == before - 4


def left(response: httpx.Response) -> int:
    return int(response.headers["ratelimit"].split(";r=")[1].split(";")[0])


def test_failed_guesses_do_not_lock_out_known_credentials() -> None:
    with serving(api_keys=("right",), auth_failures_per_address="3/day") as served:
        assert healthy(served, KEY)
        with served.client(headers=WRONG) as stranger:
            statuses = [stranger.get("/sessions").status_code for _ in range(8)]
            assert statuses[0] == 401
            assert statuses[-1] == 429
            refused(stranger.get("/sessions"), 429, "rate-limited")
            assert stranger.get("/health/live").status_code == 200
        assert healthy(served, KEY)


def test_without_credentials_only_the_shared_rate_applies() -> None:
    with serving() as served, served.client() as api:
        answer = api.get("/sessions")
        assert "ratelimit" not in answer.headers
    with serving(rate_limit_in_all="2/day") as served, served.client() as api:
        assert {api.get("/sessions").status_code for _ in range(8)} == {200, 429}

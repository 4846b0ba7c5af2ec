"""Why a credential was refused is in the log: with its name, without it, and not without end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from pydantic import SecretStr

from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.keyfile import KeyFile
from bamboo_gateway.credentials.refusals import LINES_MAX, WINDOW_SECONDS, Refusal, RefusalLog
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.settings import Settings
from tests.api.keyed import add_key
from tests.api.serving import refused, serving
from tests.credentials.test_tokens import SECRET, ec_key, jwk, rsa_key, signed
from tests.support.clocks import FakeClock
from tests.support.logs import captured_logs

ISSUER = "https://login.example"
AUDIENCE = "bamboo"


@contextmanager
def refusals() -> Iterator[list[dict[str, Any]]]:
    """Collect the refusals that the block logs; the list is filled when the block ends."""
    found: list[dict[str, Any]] = []
    with captured_logs() as lines:
        yield found
    found += [dict(line) for line in lines if "refused" in line["event"]]


def gate_of(**settings: Any) -> Gate:
    return Gate(Settings(storage_url="memory:", **settings), SystemClock())


def told(gate: Gate, sent: bytes) -> dict[str, Any]:
    """Return the one line that a wrong bearer makes."""
    with refusals() as lines:
        assert gate.bearer(sent, None) is None
    (line,) = lines
    assert (line["event"], line["log_level"], line["times"]) == ("credential refused", "warning", 1)
    assert sent.decode("latin-1")[-20:] not in str(line)
    return line


NAMED = {"iss": ISSUER, "aud": AUDIENCE}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": 1}, "expired"),
        ({"exp": None}, "no_exp"),
        ({"sub": None}, "no_sub"),
        ({"aud": None}, "no_aud"),
        ({"aud": "another"}, "wrong_audience"),
        ({"nbf": int(time.time()) + 5000}, "not_valid_yet"),
        ({"sub": "a\nb"}, "wrong_claims"),
    ],
)
def test_what_is_wrong_with_a_tokens_claims_is_told_with_its_issuer(
    changed: dict[str, Any], reason: str
) -> None:
    gate = gate_of(jwt_secret=SECRET, jwt_issuer=ISSUER, jwt_audience=AUDIENCE)
    line = told(gate, signed(**NAMED | changed))
    assert (line["kind"], line["reason"]) == ("token", reason)
    if reason != "wrong_claims":
        assert line["name"] == ISSUER


@pytest.mark.parametrize(
    ("issuer", "reason"), [(None, "no_iss"), ("https://other.example", "wrong_issuer")]
)
def test_another_issuer_is_named(issuer: str | None, reason: str) -> None:
    gate = gate_of(jwt_secret=SECRET, jwt_issuer=ISSUER)
    line = told(gate, signed(iss=issuer))
    assert (line["reason"], line.get("name")) == (reason, issuer)


def test_a_token_of_an_unknown_key_is_told_with_its_kid(tmp_path: Path) -> None:
    import json

    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(rsa_key(), kid="one")]}))
    gate = gate_of(jwt_jwks_file=file)
    line = told(gate, signed(rsa_key(), "RS256", kid="two"))
    assert (line["reason"], line["name"]) == ("unknown_key", "two")
    line = told(gate, signed(ec_key(), "ES256", kid="one"))
    assert (line["reason"], line["name"]) == ("wrong_algorithm", "one")


def test_a_forged_and_a_broken_token_are_told_apart() -> None:
    gate = gate_of(jwt_secret=SECRET, jwt_issuer=ISSUER)
    assert told(gate, signed("x" * 64, **NAMED))["reason"] == "wrong_signature"
    assert told(gate, b"no.token.at-all")["reason"] == "malformed"
    assert told(gate, b"x" * 10_000)["reason"] == "too_long"
    # What a forger says of itself is not repeated: nobody has signed it.
    gate = gate_of(jwt_secret=SECRET, jwt_issuer=ISSUER)
    assert "name" not in told(gate, signed("y" * 64, iss="https://evil.example"))


def test_a_token_that_was_good_is_told_as_expired_when_it_has() -> None:
    clock = FakeClock(int(time.time() * 1000))
    gate = Gate(Settings(storage_url="memory:", jwt_secret=SecretStr(SECRET)), clock)
    sent = signed(exp=int(time.time()) + 600, iss=ISSUER)
    assert gate.bearer(sent, None) is not None
    clock.advance(700)
    line = told(gate, sent)
    assert (line["reason"], line["name"]) == ("expired", ISSUER)


def test_what_is_wrong_with_a_key_is_told_with_its_id(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    good, text = add_key(file, "alice", "read")
    expired, late = add_key(file, "alice", "read", expires_at=1)
    _, other = add_key(file, "bob", "read")
    gate = gate_of(api_keys_file=tmp_path / "keys.json")
    secret_of_other = other.rpartition("_")[2]
    line = told(gate, f"{text.rpartition('_')[0]}_{secret_of_other}".encode())
    assert (line["kind"], line["reason"], line["name"]) == ("key", "wrong_secret", good.id)
    line = told(gate, late.encode())
    assert (line["reason"], line["name"]) == ("expired", expired.id)
    line = told(gate, f"bamboo_{'a' * 16}_{secret_of_other}".encode())
    assert (line["reason"], line["name"]) == ("unknown_key", f"key-{'a' * 16}")
    line = told(gate, b"sk-somebody-elses-secret-key-1234567890")
    assert (line["reason"], line.get("name")) == ("unknown_key", None)


@pytest.mark.parametrize("has_keys_file", [True, False])
def test_a_token_for_a_gateway_without_tokens_is_told_beside_a_bad_key(
    tmp_path: Path, has_keys_file: bool
) -> None:
    """Else the operator looks for a key, and the line is counted with those of bad keys."""
    file = tmp_path / "keys.json"
    if has_keys_file:
        add_key(KeyFile(file), "alice", "read")
    gate = gate_of(api_keys=("sk-operator",), api_keys_file=file)
    assert told(gate, b"sk-wrong-as-can-be-1234567890")["reason"] == "unknown_key"
    line = told(gate, signed(**NAMED))
    assert (line["kind"], line["reason"]) == ("token", "tokens_not_configured")
    # What nobody verifies is not repeated.
    assert "name" not in line


# -- how much of it -------------------------------------------------------------------------------


def test_a_flood_of_refusals_has_few_lines_and_loses_no_count() -> None:
    clock = FakeClock()
    log = RefusalLog(clock)
    with refusals() as lines:
        for number in range(10_000):
            log.note(Refusal("token", "expired", ISSUER))
            log.note(Refusal("token", "unknown_key", f"kid-{number}"))
            log.note(Refusal("token", "unknown_key", "x" * 10_000))
    assert len(lines) == LINES_MAX
    with refusals() as later:
        log.flush()
        clock.advance(WINDOW_SECONDS)
        log.flush()
        log.flush()
    assert len(later) <= LINES_MAX + 1
    assert sum(line["times"] for line in lines + later) == 30_000
    assert max(len(str(line)) for line in lines + later) < 400
    with refusals() as again:
        log.note(Refusal("token", "expired", ISSUER))
    assert [line["times"] for line in again] == [1]


async def test_counts_that_wait_are_logged_when_the_gateway_ends() -> None:
    gate = gate_of(api_keys=("sk-operator",))
    with refusals() as lines:
        async with gate:
            for _ in range(3):
                assert gate.bearer(b"sk-wrong", None) is None
    assert [(line["reason"], line["times"]) for line in lines] == [
        ("unknown_key", 1),
        ("unknown_key", 2),
    ]


# -- over HTTP ------------------------------------------------------------------------------------


def test_the_answer_never_says_why() -> None:
    with (
        serving(jwt_secret=SECRET, jwt_audience=AUDIENCE, api_keys=("sk-operator",)) as served,
        served.client() as api,
        refusals() as lines,
    ):
        sent = [
            f"Bearer {signed(aud=AUDIENCE, exp=1).decode()}",
            f"Bearer {signed(aud='another').decode()}",
            "Bearer sk-wrong",
            "Basic YWxpY2U6c2VjcmV0",
        ]
        answers = [api.get("/sessions", headers={"Authorization": one}) for one in sent]
        told_to = [refused(answer, 401, "unauthorized") for answer in answers]
        assert len({str({n: v for n, v in one.items() if n != "instance"}) for one in told_to}) == 1
        assert len({answer.headers["WWW-Authenticate"] for answer in answers}) == 1
        api.get("/stream/s", params={"ticket": jwt.encode({"exp": 1}, "x" * 32)})
        api.get("/sessions/s", params={"share": "link_cw.abc"})
    assert [(line["kind"], line["reason"]) for line in lines] == [
        ("token", "expired"),
        ("token", "wrong_audience"),
        ("token", "malformed"),
        ("header", "no_bearer"),
        ("ticket", "wrong_signature"),
        ("link", "opens_nothing"),
    ]
    for line in lines:
        assert "sk-wrong" not in str(line)
        assert "YWxpY2U6c2VjcmV0" not in str(line)

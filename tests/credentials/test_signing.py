"""What the gateway signs: the secret behind it, and that one kind is never taken for another."""

from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from pydantic import SecretStr

from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.gate import Gate
from bamboo_gateway.credentials.signing import Signer, chance, kept_secret
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.settings import Settings
from tests.support.clocks import FakeClock

ALICE = Caller("user:alice", "alice", frozenset({"read", "write"}), None, "key-a")


def test_a_ticket_is_a_reader_of_one_session_and_names_what_it_was_made_with() -> None:
    clock = FakeClock()
    signer = Signer(chance(), clock)
    ends = clock.now_ms() + 3_600_000
    made = signer.ticket(replace(ALICE, expires_at=ends), "s", 60)
    caller = signer.read_ticket(made.text)
    assert caller is not None
    assert (caller.id, caller.user_id) == ("user:alice", "alice")
    assert caller.rights == {"read"}
    assert (caller.session_id, caller.expires_at) == ("s", ends)
    assert caller.credential is not None
    assert caller.credential.startswith("key-a/ticket-")
    assert 59_000 < made.expires_at - clock.now_ms() <= 60_000


def test_a_cookie_ends_no_later_than_what_it_was_made_with() -> None:
    clock = FakeClock()
    signer = Signer(chance(), clock)
    soon = clock.now_ms() + 5_500
    made = signer.cookie(replace(ALICE, expires_at=soon), 3600)
    caller = signer.read_cookie(made.text)
    assert caller is not None
    assert caller.rights == ALICE.rights
    assert caller.expires_at == made.expires_at <= soon


def test_a_credential_of_another_kind_or_another_secret_is_refused() -> None:
    clock, secret = FakeClock(), chance()
    signer = Signer(secret, clock)
    ticket, cookie = signer.ticket(ALICE, "s", 60).text, signer.cookie(ALICE, 60).text
    assert signer.read_cookie(ticket) is None
    assert signer.read_ticket(cookie) is None
    assert Signer(chance(), clock).read_ticket(ticket) is None
    assert Signer(secret, clock).read_ticket(ticket) is not None
    claims = jwt.decode(ticket, options={"verify_signature": False})
    for key, algorithm in ((secret, "HS256"), ("", "none")):
        assert signer.read_ticket(jwt.encode(claims, key, algorithm)) is None


async def test_an_issuers_token_is_no_ticket_and_a_ticket_is_no_token() -> None:
    secret = "one secret for everything, which nobody should have, but somebody will"
    settings = Settings(
        storage_url="memory:", jwt_secret=SecretStr(secret), ticket_secret=SecretStr(secret)
    )
    clock = FakeClock()
    gate = Gate(settings, clock)
    token = replace(ALICE, credential="token-x")
    ticket, cookie = gate.make_ticket(token, "s").text, gate.make_cookie(token).text
    assert gate.ticket(ticket, None) is not None
    assert gate.cookie(cookie, None) is not None
    for text in (ticket, cookie):
        assert gate.bearer(text.encode(), None) is None
    forged = jwt.encode({"sub": "alice", "exp": 4_000_000_000}, secret, "HS256")
    assert gate.bearer(forged.encode(), None) is not None
    assert gate.ticket(forged, None) is None
    assert gate.cookie(forged, None) is None


def test_the_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "ticket-secret"
    made = kept_secret(path)
    assert kept_secret(path) == made
    assert len(made) >= 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert kept_secret(tmp_path / "other") != made


def test_a_secret_that_cannot_be_used_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ticket-secret"
    path.write_bytes(kept_secret(tmp_path / "good"))
    path.chmod(0o644)
    with pytest.raises(CredentialsUnusable, match="chmod 600"):
        kept_secret(path)
    path.chmod(0o600)
    path.write_bytes(b"short\n")
    with pytest.raises(CredentialsUnusable, match="no secret"):
        kept_secret(path)
    with pytest.raises(CredentialsUnusable, match="cannot be used"):
        kept_secret(tmp_path)
    with pytest.raises(CredentialsUnusable, match="32"):
        Gate(Settings(storage_url="memory:", ticket_secret=SecretStr("short")), FakeClock())

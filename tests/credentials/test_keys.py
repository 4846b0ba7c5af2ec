"""API keys and their file: which keys are valid, and that secrets are never kept."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bamboo_gateway.credentials import keyfile
from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.keyfile import KeyFile, parse_keys, with_room
from bamboo_gateway.credentials.keys import KeyTable, make_key
from bamboo_gateway.domain.api_keys import ApiKey
from bamboo_gateway.domain.codec import encode

NOW = 1_800_000_000_000


def made(**changed: object) -> tuple[ApiKey, str]:
    key_id, text, digest = make_key()
    key = ApiKey(key_id, digest, "alice", frozenset({"read"}), "", NOW - 1)
    return replace(key, **changed), text  # type: ignore[arg-type]


def test_a_key_has_enough_random_bits_and_no_two_are_equal() -> None:
    texts = {make_key()[1] for _ in range(200)}
    assert len(texts) == 200
    for text in texts:
        secret = re.fullmatch(r"bamboo_[a-z2-7]{16}_([a-z2-7]{56})", text)
        assert secret is not None
        assert len(secret[1]) * 5 >= 256


def test_a_key_opens_and_a_changed_one_does_not() -> None:
    key, text = made()
    other, other_text = made()
    table = KeyTable([key, other])
    assert table.find(text.encode(), NOW) is key
    assert table.find(other_text.encode(), NOW) is other
    swapped = text[:24] + other_text[24:]
    wrong = [text[:-1], text + "a", text.upper(), swapped, f"{text} ", f"{text}\n", key.id, ""]
    wrong.append(text[:-1] + ("a" if text[-1] != "a" else "b"))
    for candidate in wrong:
        assert table.find(candidate.encode(), NOW) is None, candidate
    assert table.find(b"\xff\xfe", NOW) is None
    assert table.find(key.digest, NOW) is None


def test_an_expired_or_revoked_key_opens_nothing() -> None:
    key, text = made(expires_at=NOW)
    assert KeyTable([key]).find(text.encode(), NOW - 1) is key
    assert KeyTable([key]).find(text.encode(), NOW) is None
    assert not KeyTable([key]).is_live(key.id, NOW)
    key, text = made(revoked_at=NOW - 5)
    assert KeyTable([key]).find(text.encode(), NOW) is None
    assert not KeyTable([key]).is_live(key.id, NOW)


def test_a_user_is_the_same_caller_with_every_key() -> None:
    first, second = made()[0].caller(), made()[0].caller()
    assert first.id == second.id
    assert first.credential != second.credential
    assert first.user_id == "alice"


def test_the_file_keeps_everything_but_the_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    key, text = made(expires_at=NOW + 5, name="léa's laptop")
    service, _ = made(user_id=None, rights=frozenset({"read", "write", "admin"}))
    KeyFile(path).change(lambda _: [key, service])
    assert list(KeyFile(path).read()) == [key, service]
    content = path.read_text("utf-8")
    assert text not in content
    assert text.split("_")[2] not in content
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_changes_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys = [made()[0] for _ in range(12)]

    def add(key: ApiKey) -> None:
        KeyFile(path).change(lambda known: [*known, key])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, keys))
    assert {key.id for key in KeyFile(path).read()} == {key.id for key in keys}


def test_a_change_that_fails_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key, _ = made()
    KeyFile(path).change(lambda _: [key])

    def fail(_: object) -> list[ApiKey]:
        raise CredentialsUnusable("no")

    with pytest.raises(CredentialsUnusable):
        KeyFile(path).change(fail)
    assert list(KeyFile(path).read()) == [key]
    assert list(tmp_path.iterdir()) == [path]


def entry(**changed: object) -> dict[str, object]:
    key, _ = made()
    good = {"id": key.id, "name": "", "sha256": key.digest.hex(), "user_id": "u"}
    return {**good, "rights": ["read"], "created_at": "2026-11-21T00:00:00Z", **changed}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version":2,"keys":[]}',
        encode({"version": 1, "keys": [entry(rights=["root"])]}),
        encode({"version": 1, "keys": [entry(sha256="00")]}),
        encode({"version": 1, "keys": [entry(user_id="../x")]}),
        encode({"version": 1, "keys": [entry(user_id="a\n")]}),
        encode({"version": 1, "keys": [entry(id="key-x")]}),
        encode({"version": 1, "keys": [entry(expires_at="soon")]}),
        encode({"version": 1, "keys": [entry(surprise=1)]}),
        encode({"version": 1, "keys": [entry(id="key-" + "a" * 16)] * 2}),
    ],
)
def test_a_broken_keys_file_is_refused_and_not_read_as_an_empty_one(
    content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has a message of its own
        parse_keys(content)
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    with pytest.raises(CredentialsUnusable, match=r"keys\.json"):
        KeyFile(path).read()


def test_in_a_full_file_a_new_key_replaces_the_one_that_was_revoked_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keyfile, "KEYS_MAX", 3)
    live, late, early = made()[0], made(revoked_at=9)[0], made(revoked_at=4)[0]
    assert with_room([live, late]) == [live, late]
    assert with_room([live, late, early]) == [live, late]
    with pytest.raises(CredentialsUnusable, match="revoke"):
        with_room([live, live, live])

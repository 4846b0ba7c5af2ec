"""JSON Web Tokens: only valid ones of the configured key and audience are accepted."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bamboo_gateway.credentials import tokens
from bamboo_gateway.credentials.errors import CredentialsUnusable
from bamboo_gateway.credentials.tokens import TokenVerifier, make_verifier
from bamboo_gateway.settings import Settings

SECRET = "a secret of the tests, long enough for every one of the digests there are"


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


def jwk(key: Any, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.RSAAlgorithm
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), **more}
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), **more}


def claims(**changed: Any) -> dict[str, Any]:
    given = {"sub": "alice", "exp": int(time()) + 600, **changed}
    return {name: value for name, value in given.items() if value is not None}


def verifier(**settings: Any) -> TokenVerifier:
    made = make_verifier(Settings(storage_url="memory:", **settings))
    assert made is not None
    return made


def by_secret(**settings: Any) -> TokenVerifier:
    return verifier(jwt_secret=SECRET, **settings)


def signed(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **changed: Any):
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**changed), key, algorithm, headers).encode()


def raw_token(header: dict[str, Any], payload: Any, sign: Callable[[bytes], bytes]) -> bytes:
    """Build a token that no library would build."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    signing = part(json.dumps(header).encode()) + b"." + part(json.dumps(payload).encode())
    return signing + b"." + part(sign(signing))


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


def test_a_good_token_is_its_user_until_it_expires() -> None:
    expires = int(time()) + 600
    caller = by_secret(jwt_leeway_seconds=5).verify(signed(exp=expires))
    assert caller is not None
    assert (caller.id, caller.user_id, caller.session_id) == ("user:alice", "alice", None)
    assert caller.rights == {"read", "write"}
    assert caller.expires_at == (expires + 5) * 1000
    assert caller.credential is not None
    assert caller.credential.startswith("token-")


@pytest.mark.parametrize("sub", ["alice@example.com", "auth0|64ab", "google-oauth2|1", "A.b_c-1"])
def test_subjects_of_common_issuers_are_users(sub: str) -> None:
    caller = by_secret().verify(signed(sub=sub))
    assert caller is not None
    assert caller.user_id == sub


@pytest.mark.parametrize(
    ("scopes", "rights"),
    [
        ({}, {"read", "write"}),
        ({"scope": "openid profile"}, {"read", "write"}),
        ({"scope": "openid read"}, {"read"}),
        ({"scp": ["read", "admin"]}, {"read", "admin"}),
        ({"scp": "write"}, {"write"}),
        ({"scope": "read", "scp": ["write"]}, {"read", "write"}),
        ({"scope": "read write admin"}, {"read", "write", "admin"}),
        ({"scope": "administrator readwrite"}, {"read", "write"}),
    ],
)
def test_the_scopes_of_a_token_name_its_rights(scopes: dict[str, Any], rights: set[str]) -> None:
    caller = by_secret().verify(signed(**scopes))
    assert caller is not None
    assert caller.rights == rights


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": None},
        {"exp": 1},
        {"exp": "never"},
        {"exp": 1e308},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "../alice"},
        {"sub": "alice\n"},
        {"sub": "a" * 129},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"aud": ["other", "another"]},
        {"scope": 7},
        {"scp": [["read"]]},
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(changed: dict[str, Any]) -> None:
    strict = by_secret(jwt_issuer="https://id.example", jwt_audience="bamboo")
    right = {"iss": "https://id.example", "aud": "bamboo"}
    assert strict.verify(signed(**right)) is not None
    payload = claims(**{**right, **changed})
    token = raw_token({"alg": "HS256", "typ": "JWT"}, payload, hs256(SECRET.encode()))
    assert strict.verify(token) is None


def test_one_of_several_audiences_is_enough() -> None:
    assert by_secret(jwt_audience="bamboo").verify(signed(aud=["x", "bamboo"])) is not None


def test_a_token_for_somebody_else_is_refused_where_no_audience_is_configured() -> None:
    assert by_secret().verify(signed(aud="another-service")) is None


def test_the_leeway_bridges_clocks_and_no_more() -> None:
    now = int(time())
    assert by_secret(jwt_leeway_seconds=600).verify(signed(exp=now - 60)) is not None
    assert by_secret(jwt_leeway_seconds=0).verify(signed(exp=now - 60)) is None


def test_a_token_that_was_tampered_with_anywhere_is_refused() -> None:
    token = signed()
    by = by_secret()
    header, payload, signature = token.split(b".")
    other = signed(sub="mallory").split(b".")
    for forged in (
        b".".join([header, other[1], signature]),
        b".".join([header, payload, other[2]]),
        b".".join([header, payload, b""]),
        b".".join([header, payload]),
        b".".join([header, payload, signature, b"x"]),
        token[:-4],
        signed("another secret of more than thirty-two bytes"),
    ):
        assert by.verify(forged) is None, forged


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "HS384", "HS512", "RS256"])
def test_another_algorithm_than_the_keys_own_is_refused(alg: str) -> None:
    for sign in (lambda _: b"", hs256(SECRET.encode())):
        token = raw_token({"alg": alg, "typ": "JWT"}, claims(), sign)
        assert by_secret().verify(token) is None
        assert by_rsa().verify(token) is None


def test_a_stronger_digest_under_the_same_secret_is_refused() -> None:
    assert by_secret().verify(signed(algorithm="HS512")) is None


def by_rsa() -> TokenVerifier:
    return by_file(pem(rsa_key()))


def by_file(content: bytes, name: str = "jwt_public_key_file") -> TokenVerifier:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        return verifier(**{name: Path(file.name)})


def test_a_public_key_is_no_secret_to_sign_with() -> None:
    """The classic confusion: a token signed by HMAC with the public key's own bytes."""
    public = pem(rsa_key())
    for secret in (public, public.strip(), public.replace(b"\n", b"")):
        for alg in ("HS256", "RS256"):
            token = raw_token({"alg": alg, "typ": "JWT"}, claims(), hs256(secret))
            assert by_rsa().verify(token) is None
            assert by_file(pem(ec_key())).verify(token) is None


def test_the_key_decides_the_algorithm() -> None:
    assert by_rsa().verify(signed(rsa_key(), "RS256")) is not None
    assert by_rsa().verify(signed(rsa_key(), "RS512")) is None
    assert by_rsa().verify(signed(rsa_key(), "PS256")) is None
    assert by_file(pem(ec_key())).verify(signed(ec_key(), "ES256")) is not None
    assert by_file(pem(ec_key())).verify(signed(rsa_key(), "RS256")) is None
    assert by_secret().verify(signed(rsa_key(), "RS256")) is None


def test_keys_in_the_tokens_header_are_not_looked_at() -> None:
    mallory = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for more in (
        {"jwk": jwk(mallory)},
        {"jku": "http://evil.example"},
        {"x5u": "http://e.example"},
    ):
        token = jwt.encode(claims(), mallory, "RS256", headers={"kid": "a", **more}).encode()
        assert by_rsa().verify(token) is None
        assert by_file(key_set_of(jwk(rsa_key(), kid="a")), "jwt_jwks_file").verify(token) is None


def key_set_of(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def test_in_a_key_set_the_kid_chooses_the_key_and_the_key_the_algorithm() -> None:
    content = key_set_of(
        jwk(rsa_key(), kid="r", use="sig"),
        jwk(ec_key(), kid="e", alg="ES256"),
        jwk(rsa_key(), kid="enc", use="enc"),
        jwk(rsa_key(), kid="ps", alg="PS256"),
        {"kty": "OKP", "crv": "Ed25519", "kid": "o", "x": "AA"},
    )
    by = by_file(content, "jwt_jwks_file")
    assert by.verify(signed(rsa_key(), "RS256", "r")) is not None
    assert by.verify(signed(ec_key(), "ES256", "e")) is not None
    for key, algorithm, kid in (
        (rsa_key(), "RS256", "e"),
        (ec_key(), "ES256", "r"),
        (rsa_key(), "RS256", "unknown"),
        (rsa_key(), "RS256", None),
        (rsa_key(), "RS256", "enc"),
        (rsa_key(), "PS256", "ps"),
        (SECRET, "HS256", "r"),
    ):
        assert by.verify(signed(key, algorithm, kid)) is None, (algorithm, kid)
    for odd in (["r"], {"r": 1}, 1, None, "__class__"):
        header = {"alg": "RS256", "kid": odd}
        assert by.verify(raw_token(header, claims(), lambda _: b"x" * 256)) is None


def test_a_key_set_is_read_again_when_it_changes_and_bad_content_changes_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set_of(jwk(rsa_key(), kid="old")))
    by = verifier(jwt_jwks_file=path)
    assert by.file is not None
    assert not by.file.refresh()
    path.write_bytes(b"{ half of it")
    assert not by.file.refresh()
    assert by.verify(signed(rsa_key(), "RS256", "old")) is not None
    path.write_bytes(key_set_of(jwk(ec_key(), kid="new")))
    assert by.file.refresh()
    assert by.verify(signed(rsa_key(), "RS256", "old")) is None
    assert by.verify(signed(ec_key(), "ES256", "new")) is not None


def test_a_verified_token_is_not_verified_again_until_the_keys_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set_of(jwk(rsa_key(), kid="a")))
    by = verifier(jwt_jwks_file=path)
    assert by.file is not None
    verified: list[bytes] = []
    claims_of = by._claims

    def counted(keys: Any, sent: bytes) -> dict[str, Any]:
        verified.append(sent)
        return claims_of(keys, sent)

    monkeypatch.setattr(by, "_claims", counted)
    monkeypatch.setattr(tokens, "TOKENS_KNOWN_MAX", 2)
    mine, other = signed(rsa_key(), "RS256", "a"), signed(rsa_key(), "RS256", "a", sub="bob")
    forged = mine[:-4]
    for sent, user_id in ((mine, "alice"), (other, "bob"), (mine, "alice"), (other, "bob")):
        caller = by.verify(sent)
        assert caller is not None
        assert caller.user_id == user_id
    assert verified == [mine, other]
    assert by.verify(forged) is by.verify(forged) is None
    assert by.verify(signed(rsa_key(), "RS256", "a", sub="carol")) is not None
    assert len(by._verified) == 2
    path.write_bytes(key_set_of(jwk(ec_key(), kid="a")))
    assert by.file.refresh()
    assert by.verify(mine) is by.verify(other) is None


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b".",
        b"..",
        b"...",
        b"a.b.c",
        b"\xff\xfe.\xff.\xff",
        b"e30.e30.",
        b"W10.W10.W10",
        b"x" * 100_000,
        base64.urlsafe_b64encode(b"[" * 5_000).rstrip(b"=") + b".e30.x",
    ],
)
def test_a_text_that_is_no_token_is_refused(token: bytes) -> None:
    for by in (
        by_secret(),
        by_rsa(),
        by_file(key_set_of(jwk(rsa_key(), kid="a")), "jwt_jwks_file"),
    ):
        assert by.verify(token) is None


@pytest.mark.parametrize(
    "payload", [[], 7, None, "alice", {"exp": [], "sub": {}}, {"exp": float("inf"), "sub": "a"}]
)
def test_a_signed_payload_without_claims_is_refused(payload: Any) -> None:
    token = raw_token({"alg": "HS256"}, payload, hs256(SECRET.encode()))
    assert by_secret().verify(token) is None


def private_pem() -> bytes:
    return rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def other_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


BAD_FILES: list[tuple[str, Callable[[], bytes], str]] = [
    ("jwt_public_key_file", lambda: b"", "PEM"),
    ("jwt_public_key_file", lambda: b"ssh-rsa AAAA", "PEM"),
    ("jwt_public_key_file", private_pem, "private"),
    ("jwt_public_key_file", lambda: other_pem(rsa_key(1024)), "2048"),
    ("jwt_public_key_file", lambda: other_pem(ed25519.Ed25519PrivateKey.generate()), "P-256"),
    (
        "jwt_public_key_file",
        lambda: other_pem(ec.generate_private_key(ec.SECP384R1())),
        "P-256",
    ),
    ("jwt_jwks_file", lambda: b"", "not usable"),
    ("jwt_jwks_file", lambda: b"[]", "Key Set"),
    ("jwt_jwks_file", lambda: b'{"keys":{}}', "Key Set"),
    ("jwt_jwks_file", lambda: b'{"keys":[1]}', "Key Set"),
    ("jwt_jwks_file", lambda: b'{"keys":[]}', "no key"),
    ("jwt_jwks_file", lambda: key_set_of(jwk(rsa_key())), "kid"),
    ("jwt_jwks_file", lambda: key_set_of(jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="a")), "kid"),
    ("jwt_jwks_file", lambda: key_set_of({"kty": "oct", "k": "AAAA", "kid": "a"}), "secret"),
    ("jwt_jwks_file", lambda: key_set_of(jwk(rsa_key(), kid="a", d="AAAA")), "private"),
    ("jwt_jwks_file", lambda: key_set_of({"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"}), "bro"),
    ("jwt_jwks_file", lambda: key_set_of(jwk(rsa_key(1024), kid="a")), "2048"),
]


@pytest.mark.parametrize(("name", "content", "word"), BAD_FILES)
def test_a_key_that_cannot_be_used_stops_the_start(
    name: str, content: Callable[[], bytes], word: str
) -> None:
    with pytest.raises(CredentialsUnusable) as caught:
        by_file(content(), name)
    assert word in caught.value.detail
    assert "\n" not in caught.value.detail


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"jwt_secret": "too short"}, "32"),
        ({"jwt_secret": SECRET, "jwt_jwks_file": Path("/nowhere")}, "one of them"),
        ({"jwt_public_key_file": Path("/nowhere/key.pem")}, "is not there"),
        ({"jwt_jwks_file": Path("/")}, "cannot be read"),
        ({"jwt_issuer": "x"}, "no key"),
        ({"jwt_audience": "x"}, "no key"),
    ],
)
def test_token_settings_that_cannot_be_used_stop_the_start(settings: Any, word: str) -> None:
    with pytest.raises(CredentialsUnusable) as caught:
        verifier(**settings)
    assert word in caught.value.detail
    assert SECRET not in caught.value.detail

"""Signatures, held against libraries that others wrote."""

import time

import pytest
from standardwebhooks import Webhook as StandardWebhook
from standardwebhooks import WebhookVerificationError
from svix.webhooks import Webhook as SvixWebhook
from svix.webhooks import WebhookVerificationError as SvixVerificationError

from bamboo_gateway.domain.webhooks import Secret, Webhook, new_secret
from bamboo_gateway.webhooks.standard import payload, signed_headers

BODY = payload("run.ended", "2026-11-20T17:25:00.123Z", {"session_id": "s-1", "text": "ü\u2028"})


def webhook(*secrets: Secret) -> Webhook:
    return Webhook("wh_1", "https://x", ("run.ended",), None, None, 0, 0, 0, secrets)


def test_two_libraries_accept_a_signature() -> None:
    secret = new_secret()
    headers = signed_headers("msg_1", int(time.time()), BODY, [secret])
    told = StandardWebhook(secret).verify(BODY, headers)
    assert told == SvixWebhook(secret).verify(BODY, headers)
    assert told["data"]["session_id"] == "s-1"


def test_two_libraries_refuse_another_body_secret_id_and_an_old_time() -> None:
    secret, now = new_secret(), int(time.time())
    good = signed_headers("msg_1", now, BODY, [secret])
    old = signed_headers("msg_1", now - 3600, BODY, [secret])
    cases = [
        (secret, BODY + b" ", good),
        (new_secret(), BODY, good),
        (secret, BODY, good | {"Webhook-Id": "msg_2"}),
        (secret, BODY, old),
    ]
    for known, body, headers in cases:
        with pytest.raises(WebhookVerificationError):
            StandardWebhook(known).verify(body, headers)
        with pytest.raises(SvixVerificationError):
            SvixWebhook(known).verify(body, headers)


def test_both_secrets_verify_while_they_overlap_and_the_old_one_no_longer() -> None:
    first = new_secret()
    second = new_secret()
    now = int(time.time())
    rotated = webhook(Secret(first)).rotated(second, now * 1000, 60_000)
    both = signed_headers("msg_1", now, BODY, rotated.signing(now * 1000))
    late = signed_headers("msg_1", now, BODY, rotated.signing((now + 60) * 1000))
    for secret in (first, second):
        StandardWebhook(secret).verify(BODY, both)
        SvixWebhook(secret).verify(BODY, both)
    StandardWebhook(second).verify(BODY, late)
    with pytest.raises(WebhookVerificationError):
        StandardWebhook(first).verify(BODY, late)


def test_an_overlap_of_nothing_ends_the_secret_at_once() -> None:
    rotated = webhook(Secret("whsec_b2xk")).rotated("whsec_bmV3", 1000, 0)
    assert rotated.signing(1000) == ["whsec_bmV3"]


def test_many_rotations_keep_three_secrets_and_never_lengthen_an_overlap() -> None:
    one = webhook(Secret("a"))
    for number, secret in enumerate("bcdef"):
        one = one.rotated(secret, 1000 + number, 10_000 if number else 500)
    assert one.signing(1010) == ["f", "e", "d"]
    again = webhook(Secret("a")).rotated("b", 0, 500).rotated("c", 100, 10_000)
    assert again.signing(499) == ["c", "b", "a"]
    assert again.signing(500) == ["c", "b"]


def test_the_stored_form_comes_back_the_same() -> None:
    one = webhook(Secret("a", 5), Secret("b")).rotated("c", 1, 2)
    assert Webhook.read(one.stored()) == one

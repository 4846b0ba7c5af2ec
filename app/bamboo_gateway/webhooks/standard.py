"""Requests in the form of Standard Webhooks (https://www.standardwebhooks.com, version 1.0.0).

The body is `{"type", "timestamp", "data"}`. `webhook-id` is the same for each attempt at the same
message, `webhook-timestamp` is the second of the attempt, `webhook-signature` has `v1,` and the
base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`, once for each secret that signs.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.webhooks import SECRET_PREFIX


def payload(kind: str, timestamp: str, data: Mapping[str, Any]) -> bytes:
    """Return the body of a message."""
    return encode({"type": kind, "timestamp": timestamp, "data": data})


def signed_headers(
    message_id: str, seconds: int, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """Return the headers of one attempt.

    Args:
        message_id: The id of the message.
        seconds: The time of the attempt, in seconds since 1970.
        body: The body.
        secrets: What signs, `whsec_…`.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), seconds, body)
    return {
        "Content-Type": "application/json",
        "Webhook-Id": message_id,
        "Webhook-Timestamp": str(seconds),
        "Webhook-Signature": " ".join(_signature(secret, signed) for secret in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = b64decode(secret.removeprefix(SECRET_PREFIX))
    return "v1," + b64encode(hmac.digest(key, signed, "sha256")).decode()

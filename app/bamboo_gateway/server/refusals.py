"""Problems that the protocol answers by itself, without calling the app."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from bamboo_gateway.api.problems import MEDIA_TYPE, RETRY_AFTER_SECONDS, problem_document
from bamboo_gateway.domain.codec import encode


def encode_refusal(code: str, detail: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the bytes of a problem response that closes its connection.

    Args:
        code: The problem's code.
        detail: The problem's detail.
        headers: The headers that every response of the server has.
    """
    problem = problem_document(code, detail, instance="/")
    body = encode(problem)
    retry = b"retry-after: %d\r\n" % RETRY_AFTER_SECONDS if problem["retryable"] else b""
    head = [
        STATUS_LINE[problem["status"]],
        *(b"%b: %b\r\n" % header for header in headers),
        b"content-type: %b\r\n" % MEDIA_TYPE.encode(),
        retry,
        b"content-length: %d\r\n" % len(body),
        b"connection: close\r\n\r\n",
    ]
    return b"".join([*head, body])

"""The contract between the gateway and what sends its webhooks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal, NamedTuple

SendError = Literal["address-refused", "unreachable", "tls-failed", "timeout", "broken", "status"]
"""Why a request was not acknowledged:

    address-refused   the URL, or an address that its name stands for, is not on the internet
    unreachable       the name is unknown, or there is no connection
    tls-failed        the server's certificate is not trusted, or not for this name
    timeout           no whole answer in time
    broken            the answer is no HTTP
    status            the answer has a status other than 2xx
"""


class Attempt(NamedTuple):
    """What became of one request.

    Attributes:
        status: The status of the answer; None without an answer.
        error: Why it does not count; None when it was acknowledged.
        duration_ms: How long it took.
        retry_after_seconds: How long the receiver asks to wait.
    """

    status: int | None
    error: SendError | None
    duration_ms: int
    retry_after_seconds: int | None = None


class Sender(ABC):
    """Sends requests to servers that users have named, and lets none of them reach inside."""

    @abstractmethod
    def check_url(self, url: str) -> None:
        """Refuse a URL that no request is sent to.

        Raises:
            UrlRefusedError: With the reason.
        """

    @abstractmethod
    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a body once, and return what became of it; nothing is raised.

        Cancelled, it abandons the request, which may have arrived.
        """

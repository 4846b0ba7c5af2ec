"""The small HTTP client that the commands share: URLs, keys, and one line for each error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Self

import httpx

from bamboo_gateway.cli.output import CommandError, ExitCode
from bamboo_gateway.domain import codec

API = "/api/v1"
CONNECT_SECONDS = 10.0
# Longer than anything the gateway waits for by itself (`cancel_timeout_seconds`, one sync).
ANSWER_SECONDS = 60.0
# Four heartbeats of the default interval. After that the network has lost the connection.
SILENCE_SECONDS = 60.0


class UnreachableError(CommandError):
    """No gateway answers at the URL."""

    def __init__(self, url: str, error: httpx.HTTPError) -> None:
        super().__init__(
            f"No gateway answers at {url} ({_reason(error)}). "
            "Start one with `bamboo serve`, or name another with --url.",
            ExitCode.UNREACHABLE,
        )


class RefusedError(CommandError):
    """The gateway answered with a problem document (RFC 9457).

    Attributes:
        status: The HTTP status.
        code: The stable code of the problem; empty when the answer is no problem document.
        retry_after_seconds: `Retry-After`, None where the answer has none.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.retry_after_seconds = _seconds(response.headers.get("Retry-After"))
        problem = _json_object(response)
        self.code = str(problem.get("code", ""))
        detail = problem.get("detail") or problem.get("title") or response.reason_phrase
        super().__init__(f"{detail} ({self.code or f'HTTP {self.status}'})")

    @property
    def is_not_found(self) -> bool:
        """Whether the status is 404."""
        return self.status == httpx.codes.NOT_FOUND

    @property
    def passes(self) -> bool:
        """Whether waiting helps: the gateway, or a proxy in front of it, is busy or restarts."""
        return self.status in {429, 502, 503, 504}


class GatewayClient:
    """Calls one gateway.

    Attributes:
        url: The gateway's URL, without a slash at the end.
        reached: Whether the gateway has answered before. A refused connection then means that it
            restarts, and a command waits for it.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.reached = False
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise CommandError(f"--url {url}: {error}", ExitCode.USAGE) from error
        if address.scheme not in {"http", "https"} or not address.host:
            raise CommandError(
                f"--url {url}: an address begins with http:// or https://", ExitCode.USAGE
            )
        if "?" in self.url or "#" in self.url:
            raise CommandError(f"--url {url}: an address ends with its path", ExitCode.USAGE)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # A proxy of the environment must not be asked for this machine itself.
            trust_env=not _is_loopback(address.host),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> Any:
        """Call `path` below `/api/v1` and return the JSON answer, None where the body is empty.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer.
        """
        sent = dict(headers or {})
        if json is not None:
            content = codec.encode(json)
            sent["Content-Type"] = "application/json"
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            response = self._http.request(
                method, f"{self.url}{API}{path}", content=content, params=given, headers=sent
            )
        except httpx.TransportError as error:
            raise UnreachableError(self.url, error) from error
        self.reached = True
        if response.is_error:
            raise RefusedError(response)
        if not response.content:
            return None
        try:
            return codec.decode(response.content)
        except ValueError as error:
            raise CommandError(f"{self.url} does not answer like a gateway: not JSON") from error

    def upload(
        self,
        path: str,
        pieces: Iterator[bytes],
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        """Post a body in pieces, and return the JSON answer.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer.
        """
        answer: dict[str, Any] = self.call(
            "POST", path, params=params, headers=headers, content=pieces
        )
        return answer

    @contextmanager
    def download(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """Open a document below `/api/v1` and yield its chunks.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer, or the document broke off.
        """
        sent = dict(headers or {})
        if json is not None:
            content = codec.encode(json)
            sent["Content-Type"] = "application/json"
        try:
            with self._http.stream(
                method, f"{self.url}{API}{path}", content=content, params=params, headers=sent
            ) as response:
                self.reached = True
                if response.is_error:
                    response.read()
                    raise RefusedError(response)
                yield response.iter_bytes()
        except httpx.TransportError as error:
            raise UnreachableError(self.url, error) from error

    @contextmanager
    def stream(
        self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        """Open a stream below `/api/v1`; reading its body raises `httpx.TransportError` as well.

        Raises:
            RefusedError: The gateway answered with an error.
            httpx.TransportError: The gateway did not answer, or the connection broke.
        """
        with self._http.stream(
            "GET",
            f"{self.url}{API}{path}",
            params=dict(params),
            headers={"Accept": "text/event-stream", **headers},
            timeout=httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS),
        ) as response:
            self.reached = True
            if response.is_error:
                response.read()
                raise RefusedError(response)
            yield response


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _reason(error: httpx.HTTPError) -> str:
    if "refused" in str(error).lower():
        return "connection refused"
    return str(error) or type(error).__name__


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isdigit() else None


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        value = codec.decode(response.content)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

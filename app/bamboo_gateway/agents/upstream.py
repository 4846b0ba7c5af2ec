"""An HTTP service that answers a turn with a streamed response. Only this module uses httpx here.

Problems become an `AgentError` whose message clients may see. Its codes are

    upstream_unreachable    no connection, or it broke before the response began
    upstream_timeout        the response did not begin, or fell silent, for too long
    upstream_auth           401, 403
    upstream_rejected       another 4xx: the same request will never succeed
    upstream_rate_limited   429
    upstream_error          5xx, a redirect, or an error inside the stream
    upstream_incomplete     the response broke off before its end
    upstream_invalid        the response does not follow the protocol

A request is retried only before the first byte of a usable response: when connecting failed, or
after one of `retried_statuses`. A response that has begun may have cost money or had effects, so it
is never requested twice.

httpx reads proxies and certificate authorities from the environment (`HTTPS_PROXY`, `NO_PROXY`,
`SSL_CERT_FILE` …). Redirects are not followed, so that the key goes to no other server.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from secrets import randbelow
from typing import Annotated, cast

import anyio
import httpx
import structlog
from pydantic import Field

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.options import Options
from bamboo_gateway.agents.upstream_errors import (
    error_of_status,
    retry_after_seconds,
    words_of_error,
)

log = structlog.get_logger(__name__)

RETRY_AFTER_SECONDS_MAX = 30.0
"""The longest wait before a retry. If a service asks for more, the error is reported instead, so
that the people who wait for the answer can decide."""

_BACKOFF_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
_ERROR_BODY_BYTES_MAX = 64 * 1024
"""How much of an error page is read: an error message is far smaller."""
_ERROR_BODY_SECONDS = 10.0
"""How long to wait for the body of an error: not as long as for an answer."""
_CONNECTIONS_MAX = 2000
"""More than the runs of one process; with httpx's default of 100, runs would wait for others."""
_KEPT_ALIVE_MAX = 50
_DRAIN_SECONDS = 0.25
"""How long to wait for the last bytes of a finished response, to keep the connection."""


_Seconds = Annotated[float, Field(gt=0, le=3600)]


class Waits(Options):
    """Timeouts and retries: members of an agent's query."""

    connect_timeout_seconds: _Seconds = 10.0
    first_byte_timeout_seconds: _Seconds = 120.0
    idle_timeout_seconds: _Seconds = 120.0
    retries_max: Annotated[int, Field(ge=0, le=10)] = 3


class Upstream:
    """Posts requests to one HTTP service.

    Args:
        url: The URL of the service.
        what: How messages name the service: `the model server`.
        waits: Timeouts and retries.
        retried_statuses: Statuses after which the request is retried.
        keeps_alive: Whether connections are reused. A reused connection may turn out to be closed
            only after a request was sent on it; such a request is retried.
        secrets: Texts that never appear in messages, even if the service repeats them.
        sleep: Waits between attempts; tests replace it.

    Raises:
        ValueError: `url` cannot be posted to, or the proxy or certificate settings of the
            environment cannot be used. The message is one line.
    """

    def __init__(
        self,
        url: str,
        *,
        what: str,
        waits: Waits,
        retried_statuses: Container[int],
        keeps_alive: bool,
        secrets: tuple[str, ...] = (),
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._url = _checked(url)
        self._what = what
        self._waits = waits
        self._retried_statuses = retried_statuses
        self._keeps_alive = keeps_alive
        self._secrets = secrets
        self._sleep = sleep
        self._client = _make_client(waits, keeps_alive=keeps_alive)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def probe(self) -> str:
        """Check that the service answers, without asking for work; return the result.

        Raises:
            AgentError: The service cannot be reached or does not answer.
        """
        try:
            response = await self._client.head(self._url)
        except httpx.HTTPError as error:
            raise self._unreachable(error, may_retry=False).error from error
        if response.is_server_error:
            raise AgentError(
                f"The {self._what} answers with HTTP {response.status_code}.", code="upstream_error"
            )
        # Services that only expect POST answer a HEAD with 404 or 405.
        return f"answers (HTTP {response.status_code})"

    @asynccontextmanager
    async def post(self, body: bytes, headers: Mapping[str, str]) -> AsyncIterator["Answer"]:
        """Post `body`, and yield the answer when its head has arrived with a 2xx status.

        Leaving the block before the end of the answer closes the connection: the service sees that.

        Raises:
            AgentError: There was no such answer; the module lists the codes.
        """
        response = await self._send(body, headers)
        answer = Answer(response, self._what, self._waits.idle_timeout_seconds)
        try:
            yield answer
        finally:
            await answer.aclose()

    async def _send(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        failures = 0
        while True:
            outcome = await self._try(body, headers)
            if isinstance(outcome, httpx.Response):
                return outcome
            log.warning(
                "a request to an upstream failed",
                upstream=self._what,
                tries=failures + 1,
                code=outcome.error.code,
                cause=str(outcome.error.__cause__ or outcome.error.detail),
            )
            if not outcome.may_retry or failures >= self._waits.retries_max:
                raise outcome.error
            wait = outcome.wait_seconds
            if wait is None:
                step = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
                # Half of it is random, so that runs that failed together do not return together.
                wait = step * (0.5 + randbelow(500) / 1000)
            if wait > RETRY_AFTER_SECONDS_MAX:
                raise outcome.error
            failures += 1
            await self._sleep(wait)

    async def _try(self, body: bytes, headers: Mapping[str, str]) -> "httpx.Response | _Failure":
        request = self._client.build_request("POST", self._url, content=body, headers=headers)
        try:
            with anyio.fail_after(self._waits.first_byte_timeout_seconds):
                response = await self._client.send(request, stream=True)
        except TimeoutError as error:
            raise AgentError(
                f"The {self._what} did not begin to answer in time.", code="upstream_timeout"
            ) from error
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return self._unreachable(error, may_retry=True)
        except httpx.HTTPError as error:
            return self._unreachable(error, may_retry=self._keeps_alive)
        if response.is_success:
            return response
        try:
            return await self._refused(response)
        finally:
            await response.aclose()

    def _unreachable(self, error: httpx.HTTPError, *, may_retry: bool) -> "_Failure":
        failed = AgentError(f"The {self._what} cannot be reached.", code="upstream_unreachable")
        failed.__cause__ = error
        return _Failure(failed, may_retry)

    async def _refused(self, response: httpx.Response) -> "_Failure":
        status = response.status_code
        # Errors about a wrong key often repeat it.
        body = b"" if status in {401, 403} else await self._body_of(response)
        wait = retry_after_seconds(response.headers)
        error = error_of_status(self._what, status, words_of_error(body, self._secrets), wait)
        # With this header OpenAI marks a 429 that is an empty account and no momentary limit.
        final = response.headers.get("x-should-retry") == "false"
        return _Failure(error, status in self._retried_statuses and not final, wait)

    async def _body_of(self, response: httpx.Response) -> bytes:
        answer = Answer(response, self._what, _ERROR_BODY_SECONDS)
        try:
            with anyio.fail_after(_ERROR_BODY_SECONDS):
                return await answer.read(_ERROR_BODY_BYTES_MAX)
        except (AgentError, TimeoutError):
            # The status is enough.
            return b""
        finally:
            await answer.aclose()


def _checked(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError("its URL cannot be read") from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("its URL is not http(s)://host…")
    if not 1 <= (url.port or 80) <= 65535:
        raise ValueError("its URL has an invalid port")
    if url.userinfo:
        raise ValueError("its URL holds a name or password, which would show up in lists")
    return url


def _make_client(waits: Waits, *, keeps_alive: bool) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            # `Answer` times the reading, because httpx has one timeout for first and later bytes.
            timeout=httpx.Timeout(
                waits.first_byte_timeout_seconds, connect=waits.connect_timeout_seconds, read=None
            ),
            limits=httpx.Limits(
                max_connections=_CONNECTIONS_MAX,
                max_keepalive_connections=_KEPT_ALIVE_MAX if keeps_alive else 0,
            ),
            # Compressed streams arrive in large pieces.
            headers={"Accept-Encoding": "identity", "User-Agent": "bamboo-gateway"},
        )
    except (ValueError, ImportError, OSError) as error:
        raise ValueError(
            "the environment's proxy or certificate settings cannot be used"
            f" ({type(error).__name__})"
        ) from error


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt without an answer."""

    error: AgentError
    may_retry: bool
    wait_seconds: float | None = None


class Answer:
    """A response whose head has arrived, read chunk by chunk."""

    def __init__(self, response: httpx.Response, what: str, idle_seconds: float) -> None:
        self._response = response
        self._what = what
        self._idle_seconds = idle_seconds
        # An async generator, though httpx declares an iterator.
        self._chunks = cast("AsyncGenerator[bytes, None]", response.aiter_bytes())

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        header: str = self._response.headers.get("content-type", "")
        return header.partition(";")[0].strip().lower()

    @property
    def says_its_end(self) -> bool:
        """Whether chunks or a length tell the end of the body from a broken connection."""
        headers = self._response.headers
        return "transfer-encoding" in headers or "content-length" in headers

    async def next_chunk(self, seconds_max: float = inf) -> bytes | None:
        """Return the next bytes that arrive, None at the end.

        Args:
            seconds_max: The longest wait, if it is shorter than the idle timeout.

        Raises:
            AgentError: `upstream_timeout` after the idle timeout, `upstream_incomplete` if the
                connection broke.
        """
        try:
            with anyio.fail_after(min(self._idle_seconds, seconds_max)):
                return await anext(self._chunks, None)
        except TimeoutError as error:
            raise AgentError(
                f"The {self._what} fell silent in mid-answer.", code="upstream_timeout"
            ) from error
        except httpx.HTTPError as error:
            raise AgentError(
                f"The {self._what} broke off its answer.", code="upstream_incomplete"
            ) from error

    async def read(self, bytes_max: int) -> bytes:
        """Return the whole body.

        Raises:
            AgentError: As `next_chunk`, and `upstream_invalid` if the body is too large.
        """
        body = bytearray()
        while (chunk := await self.next_chunk()) is not None:
            body += chunk
            if len(body) > bytes_max:
                raise AgentError(
                    f"The {self._what} answered with more than {bytes_max} bytes.",
                    code="upstream_invalid",
                )
        return bytes(body)

    async def drain(self) -> None:
        """Read the rest for a moment, so that the connection can be reused."""
        try:
            with anyio.move_on_after(_DRAIN_SECONDS):
                while await self.next_chunk() is not None:
                    pass
        except AgentError:
            # The answer was whole. Only the connection is lost, and it is closed anyway.
            return

    async def aclose(self) -> None:
        """Close the response; before its end this closes the connection."""
        await self._chunks.aclose()
        await self._response.aclose()

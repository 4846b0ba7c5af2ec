"""An HTTP service that answers a turn with a streamed response.

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

Redirects are not followed, so that the key goes to no other server. `upstream_route` says which
proxies and certificates are used.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf
from secrets import randbelow
from typing import Annotated, Final

import anyio
import structlog
from pydantic import Field

from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.agents.options import Options
from bamboo_gateway.agents.upstream_connection import BrokenConnectionError, Connection
from bamboo_gateway.agents.upstream_errors import (
    error_of_status,
    retry_after_seconds,
    words_of_error,
)
from bamboo_gateway.agents.upstream_route import NoConnectionError, Route

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
"""More than the runs of one process, so that no run waits for another."""
_KEPT_ALIVE_MAX = 50
_KEPT_ALIVE_SECONDS = 5.0
"""How long a connection may have been idle to be used again: servers close idle ones, and some
networks forget them without a word."""
NOT_BEGUN_STATUSES: Final = frozenset({429, 502, 503, 504})
"""With these a service says that it has not begun, so that it may be asked again."""
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
        self._what = what
        self._waits = waits
        self._retried_statuses = retried_statuses
        self._keeps_alive = keeps_alive
        self._secrets = secrets
        self._sleep = sleep
        self._route = Route(url, waits.connect_timeout_seconds)
        self._slots = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._idle: list[Connection] = []

    async def aclose(self) -> None:
        """Close the connections."""
        while self._idle:
            self._idle.pop().abort()

    async def probe(self) -> str:
        """Check that the service answers, without asking for work; return the result.

        Raises:
            AgentError: The service cannot be reached or does not answer.
        """
        try:
            with anyio.fail_after(self._waits.first_byte_timeout_seconds):
                connection = await self._asked("HEAD", b"", {})
        except (NoConnectionError, BrokenConnectionError, TimeoutError) as error:
            raise self._unreachable(error, may_retry=False).error from error
        # Its end cannot be told: it has the length of a body that does not follow.
        self._release(connection, is_reusable=False)
        if connection.status >= 500:
            raise AgentError(
                f"The {self._what} answers with HTTP {connection.status}.", code="upstream_error"
            )
        # Services that only expect POST answer a HEAD with 404 or 405.
        return f"answers (HTTP {connection.status})"

    @asynccontextmanager
    async def post(self, body: bytes, headers: Mapping[str, str]) -> AsyncIterator["Answer"]:
        """Post `body`, and yield the answer when its head has arrived with a 2xx status.

        Leaving the block before the end of the answer closes the connection: the service sees that.

        Raises:
            AgentError: There was no such answer; the module lists the codes.
        """
        connection = await self._send(body, headers)
        try:
            yield Answer(connection, self._what, self._waits.idle_timeout_seconds)
        finally:
            self._release(connection, is_reusable=connection.is_reusable)

    async def _send(self, body: bytes, headers: Mapping[str, str]) -> Connection:
        failures = 0
        while True:
            outcome = await self._try(body, headers)
            if isinstance(outcome, Connection):
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

    async def _try(self, body: bytes, headers: Mapping[str, str]) -> "Connection | _Failure":
        try:
            with anyio.fail_after(self._waits.first_byte_timeout_seconds):
                connection = await self._asked("POST", body, headers)
        except TimeoutError as error:
            raise AgentError(
                f"The {self._what} did not begin to answer in time.", code="upstream_timeout"
            ) from error
        except NoConnectionError as error:
            return self._unreachable(error, may_retry=True)
        except BrokenConnectionError as error:
            return self._unreachable(error, may_retry=self._keeps_alive)
        if 200 <= connection.status < 300:
            if connection.headers.get("content-encoding", "identity") != "identity":
                self._release(connection, is_reusable=False)
                raise AgentError(
                    f"The {self._what} compressed its answer, which it was asked not to.",
                    code="upstream_invalid",
                )
            return connection
        try:
            return await self._refused(connection)
        finally:
            self._release(connection, is_reusable=connection.is_reusable)

    async def _asked(self, method: str, body: bytes, headers: Mapping[str, str]) -> Connection:
        """Send a request; return its connection when the head of the answer has arrived."""
        if method == "POST":
            headers = {**headers, "Content-Length": str(len(body))}
        head = self._route.head_of(method, headers)
        await self._slots.acquire()
        connection = None
        try:
            connection = self._idle_connection() or await self._route.connect()
            connection.send(head, body)
            await connection.wait_for_head()
        except BaseException:
            self._release(connection, is_reusable=False)
            raise
        return connection

    def _idle_connection(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and now - connection.idle_since < _KEPT_ALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    def _release(self, connection: Connection | None, *, is_reusable: bool) -> None:
        self._slots.release()
        if connection is None:
            return
        if is_reusable and self._keeps_alive and len(self._idle) < _KEPT_ALIVE_MAX:
            connection.finish()
            self._idle.append(connection)
        else:
            connection.abort()

    def _unreachable(self, error: Exception, *, may_retry: bool) -> "_Failure":
        failed = AgentError(f"The {self._what} cannot be reached.", code="upstream_unreachable")
        failed.__cause__ = error
        return _Failure(failed, may_retry)

    async def _refused(self, connection: Connection) -> "_Failure":
        status, headers = connection.status, connection.headers
        # Errors about a wrong key often repeat it.
        body = b"" if status in {401, 403} else await self._body_of(connection)
        wait = retry_after_seconds(headers)
        error = error_of_status(self._what, status, words_of_error(body, self._secrets), wait)
        # With this header OpenAI marks a 429 that is an empty account and no momentary limit.
        final = headers.get("x-should-retry") == "false"
        return _Failure(error, status in self._retried_statuses and not final, wait)

    async def _body_of(self, connection: Connection) -> bytes:
        answer = Answer(connection, self._what, _ERROR_BODY_SECONDS)
        try:
            with anyio.fail_after(_ERROR_BODY_SECONDS):
                return await answer.read(_ERROR_BODY_BYTES_MAX)
        except (AgentError, TimeoutError):
            # The status is enough.
            return b""


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt without an answer."""

    error: AgentError
    may_retry: bool
    wait_seconds: float | None = None


class Answer:
    """A response whose head has arrived, read as it comes."""

    def __init__(self, connection: Connection, what: str, idle_seconds: float) -> None:
        self._connection = connection
        self._what = what
        self._idle_seconds = idle_seconds

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        header = self._connection.headers.get("content-type", "")
        return header.partition(";")[0].strip().lower()

    @property
    def says_its_end(self) -> bool:
        """Whether chunks or a length tell the end of the body from a broken connection."""
        return self._connection.says_its_end

    async def next_chunk(self, seconds_max: float = inf) -> bytes | None:
        """Return the bytes that have arrived, or the next ones; None at the end.

        Args:
            seconds_max: The longest wait, if it is shorter than the idle timeout.

        Raises:
            AgentError: `upstream_timeout` after the idle timeout, `upstream_incomplete` if the
                connection broke.
        """
        connection = self._connection
        try:
            while (chunk := connection.take()) is None and not connection.is_whole:
                await connection.arrival(min(self._idle_seconds, seconds_max))
        except TimeoutError as error:
            raise AgentError(
                f"The {self._what} fell silent in mid-answer.", code="upstream_timeout"
            ) from error
        except BrokenConnectionError as error:
            raise AgentError(
                f"The {self._what} broke off its answer.", code="upstream_incomplete"
            ) from error
        return chunk

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
        if self._connection.is_whole:
            return
        try:
            with anyio.move_on_after(_DRAIN_SECONDS):
                while await self.next_chunk() is not None:
                    pass
        except AgentError:
            # The answer was whole. Only the connection is lost, and it is closed anyway.
            return

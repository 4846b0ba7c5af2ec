"""Requests to one gateway: keys, idempotency, attempts, errors."""

from __future__ import annotations

import json as json_module
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from bamboo_gateway_client._async.pause import pause
from bamboo_gateway_client.addresses import (
    API,
    authorization,
    checked_url,
    given,
    is_loopback,
    trust_of,
)
from bamboo_gateway_client.errors import (
    GatewayError,
    NotFoundError,
    ProblemError,
    ProtocolError,
    UnreachableError,
    problem_of,
)
from bamboo_gateway_client.retries import Retries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

CONNECT_SECONDS = 10.0
# Longer than anything the gateway waits for by itself.
ANSWER_SECONDS = 60.0
# Four heartbeats of the gateway's default interval. After that the network has lost the connection.
SILENCE_SECONDS = 60.0


class AsyncTransport:
    """The HTTP client of one gateway.

    Attributes:
        url: The gateway's address, without a slash at the end.
        reached: Whether the gateway has answered before. A refused connection then means that it
            restarts.
        retries: How often a request is sent.
        silence_seconds: A stream that is silent for so long is given up and opened again.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        retries: Retries | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        silence_seconds: float = SILENCE_SECONDS,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self.url = checked_url(url)
        self.reached = False
        self.retries = retries or Retries()
        self.silence_seconds = silence_seconds
        self._headers = authorization(api_key)
        self._timeout = httpx.Timeout(answer_seconds, connect=CONNECT_SECONDS)
        self._owns_http = http is None
        self._http = http or httpx.AsyncClient(
            # Each stream keeps a connection.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy of the environment must not be asked for this machine itself.
            trust_env=not is_loopback(self.url),
            verify=trust_of(self.url),
        )

    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client was given."""
        if self._owns_http:
            await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        attempts: int | None = None,
        answer_seconds: float | None = None,
    ) -> Any:
        """Call `path` below `/api/v1` and return the JSON of the answer; None where it is empty.

        Raises:
            ProblemError: The gateway refused.
            UnreachableError: The gateway did not answer.
            ProtocolError: The answer is not JSON.
        """
        response = await self.send(
            method,
            path,
            json=json,
            params=params,
            headers=headers,
            content=content,
            attempts=attempts,
            answer_seconds=answer_seconds,
        )
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise ProtocolError(f"{self.url} does not answer like a gateway: not JSON") from error

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        attempts: int | None = None,
        answer_seconds: float | None = None,
    ) -> httpx.Response:
        """Send a request until it is answered, and return the answer with its body.

        A POST carries an `Idempotency-Key`, so that all its attempts are one to the gateway; the
        other methods are idempotent by themselves. A body that can be read only once is sent once.
        `answer_seconds` is how long this answer may take, when that is less than usual.

        Raises:
            ProblemError: The gateway refused.
            UnreachableError: The gateway did not answer.
        """
        sent = {**self._headers, **(headers or {})}
        if json is not None:
            content = json_module.dumps(json, ensure_ascii=False, allow_nan=False).encode()
            sent.setdefault("Content-Type", "application/json")
        if method == "POST" and "Idempotency-Key" not in sent:
            sent["Idempotency-Key"] = str(uuid.uuid4())
        if content is not None and not isinstance(content, bytes | str):
            attempts = 1
        retries = self.retries if attempts is None else Retries(attempts, self.retries.seconds_max)
        attempt, was_lost = 0, False
        limits = self._timeout
        if answer_seconds is not None and answer_seconds < (limits.read or answer_seconds + 1):
            limits = httpx.Timeout(answer_seconds, connect=min(CONNECT_SECONDS, answer_seconds))
        while True:
            try:
                return await self._once(method, path, params, sent, content, limits)
            except (UnreachableError, ProblemError) as failure:
                if was_lost and method == "DELETE" and isinstance(failure, NotFoundError):
                    # The attempt whose answer was lost has deleted it.
                    return httpx.Response(httpx.codes.NO_CONTENT)
                was_lost |= isinstance(failure, UnreachableError)
                seconds = retries.pause_after(failure, attempt)
                if seconds is None:
                    raise
            attempt += 1
            await pause(seconds)

    async def _once(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        content: Any,
        limits: httpx.Timeout,
    ) -> httpx.Response:
        try:
            response = await self._http.request(
                method,
                f"{self.url}{API}{path}",
                params=given(**(params or {})),
                headers=headers,
                content=content,
                timeout=limits,
            )
        except httpx.RequestError as error:
            raise self._unreachable(error) from error
        self.reached = True
        return _checked(response)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        silence_seconds: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request once, and yield the answer before its body has come.

        Raises:
            ProblemError: The gateway refused.
            UnreachableError: The gateway did not answer, or the body broke off.
        """
        sent = {**self._headers, **(headers or {})}
        if json is not None:
            content = json_module.dumps(json, ensure_ascii=False, allow_nan=False).encode()
            sent.setdefault("Content-Type", "application/json")
        timeout = self._timeout
        if silence_seconds is not None:
            timeout = httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS)
        try:
            async with self._http.stream(
                method,
                f"{self.url}{API}{path}",
                params=given(**(params or {})),
                headers=sent,
                content=content,
                timeout=timeout,
            ) as response:
                self.reached = True
                if response.is_error:
                    await response.aread()
                yield _checked(response)
        except httpx.RequestError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.RequestError) -> GatewayError:
        if isinstance(error, httpx.UnsupportedProtocol | httpx.TooManyRedirects):
            return ProtocolError(f"{self.url} does not answer like a gateway: {error}")
        reason = str(error) or type(error).__name__
        if "refused" in reason.lower():
            reason = "connection refused"
        return UnreachableError(self.url, reason)


def _checked(response: httpx.Response) -> httpx.Response:
    if response.has_redirect_location:
        # Followed, the key would go where nobody meant it to.
        where = response.headers["Location"]
        raise ProtocolError(f"This does not answer like a gateway: it redirects to {where}.")
    if response.is_error:
        raise problem_of(
            response.status_code,
            response.reason_phrase,
            response.content,
            response.headers.get("Retry-After"),
        )
    return response

"""The gateway: sessions, files, the streams over several sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from bamboo_gateway_client._async.files import AsyncFiles
from bamboo_gateway_client._async.run import AsyncRun
from bamboo_gateway_client._async.session import AsyncSession
from bamboo_gateway_client._async.stream import AsyncEventStream
from bamboo_gateway_client._async.transport import (
    ANSWER_SECONDS,
    SILENCE_SECONDS,
    AsyncTransport,
)
from bamboo_gateway_client.addresses import body_of_message, given, segment
from bamboo_gateway_client.streaming import StreamHooks, StreamState

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import httpx

    from bamboo_gateway_client.events import Change, StreamedEvent
    from bamboo_gateway_client.retries import Retries
    from bamboo_gateway_client.types import AgentInfo, File, SearchResult, SessionPage
    from bamboo_gateway_client.types import Session as SessionShape


class AsyncGateway:
    """A client of one gateway. It keeps connections open: close it, or use it in a `with` block.

    Args:
        url: The gateway's address: `http://127.0.0.1:8080`, `https://example.org/bamboo`.
        api_key: The key, or a token, that goes into `Authorization`.
        retries: How often a request is sent that is not answered, and the pauses between.
        answer_seconds: How long the gateway may take for an answer.
        silence_seconds: A stream that is silent for so long is opened again; four heartbeats of
            the gateway's default are 60.
        http: An HTTP client of the caller's own, for proxies and certificates. It stays open.

    Attributes:
        sessions: The sessions of the caller.
        files: The files of the caller.
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
        self._transport = AsyncTransport(
            url,
            api_key,
            retries=retries,
            answer_seconds=answer_seconds,
            silence_seconds=silence_seconds,
            http=http,
        )
        self.sessions = AsyncSessions(self._transport)
        self.files = AsyncFiles(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. Runs go on."""
        await self._transport.aclose()

    @property
    def url(self) -> str:
        """The gateway's address, without a slash at its end."""
        return self._transport.url

    @property
    def reached(self) -> bool:
        """Whether the gateway has ever answered."""
        return self._transport.reached

    def session(self, session_id: str) -> AsyncSession:
        """Return a handle on a session; nothing is asked."""
        return AsyncSession(self._transport, session_id)

    async def chat(
        self,
        message: Any,
        *,
        files: Sequence[File | str] = (),
        idempotency_key: str | None = None,
        **more: Any,
    ) -> AsyncRun:
        """Say something in a new session, and return the run that answers.

        Args:
            message: As for `session.chat`.
            files: As for `session.chat`.
            idempotency_key: As for `session.chat`.
            more: What else `POST /chat` takes: `agent`, `options`, `title`, `user_id`, `metadata`.
        """
        body = given(message=body_of_message(message, files), **more)
        headers = given(**{"Idempotency-Key": idempotency_key})
        accepted = await self._transport.call("POST", "/chat", json=body, headers=headers)
        return AsyncRun(self._transport, accepted)

    def stream(
        self,
        sessions: Sequence[str] | Mapping[str, str | None],
        *,
        after: str | None = None,
        from_start: bool = False,
        hooks: StreamHooks | None = None,
    ) -> AsyncEventStream[StreamedEvent]:
        """Return the events of up to 32 sessions over one connection.

        Each event has one member more, `session_id`. `position` is a cursor in all of them.

        Args:
            sessions: The sessions; a mapping gives each the position to begin after.
            after: The cursor of an earlier stream of the same sessions.
            from_start: Begin with the first event of each.
            hooks: Are called when the connection is lost and found, and when a session ends.
        """
        begins = sessions if isinstance(sessions, Mapping) else dict.fromkeys(sessions)
        named = [f"{one}@{begin}" if begin else one for one, begin in begins.items()]
        params = given(session_id=named, after=after, **{"from": "start" if from_start else None})
        state = StreamState(
            self._transport.retries, after=after, sessions=list(begins), hooks=hooks
        )
        return AsyncEventStream(self._transport, "/stream", params, state)

    def changes(
        self, *, after: str | None = None, hooks: StreamHooks | None = None, **filters: str | None
    ) -> AsyncEventStream[Change]:
        """Return which sessions change, as they do: what a list of sessions needs to stay true.

        Args:
            after: The cursor (`position`) of an earlier stream; default: from now.
            hooks: Are called when the connection is lost and found.
            filters: `user_id`, `session_type`, `parent_id`, as for the list.
        """
        state = StreamState(self._transport.retries, after=after, hooks=hooks)
        params = given(after=after, **filters)
        return AsyncEventStream(self._transport, "/changes", params, state)

    async def agents(self) -> list[AgentInfo]:
        """Return the agents that answer here."""
        answer: dict[str, list[AgentInfo]] = await self._transport.call("GET", "/agents")
        return answer["agents"]

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
        attempts: int | None = None,
    ) -> Any:
        """Call any route below `/api/v1` and return its JSON, None where the answer is empty.

        A POST has an idempotency key, and every request is sent again when it was not answered.

        Args:
            method: The HTTP method.
            path: The path, with a slash at its begin.
            json: A value that is sent as JSON.
            params: The query; what is None is left out.
            headers: Further headers.
            content: A body of bytes, or an iterator over them, which is sent once.
            attempts: How often it is sent; default: as the client's `retries` say.
        """
        return await self._transport.call(
            method,
            path,
            json=json,
            params=params,
            headers=headers,
            content=content,
            attempts=attempts,
        )

    def open(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Any = None,
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Call any route once, and yield the answer before its body has come: for large documents.

        Args:
            method: The HTTP method.
            path: The path, with a slash at its begin.
            json: A value that is sent as JSON.
            params: The query.
            headers: Further headers.
            content: A body of bytes, or an iterator over them.
        """
        return self._transport.open(
            method, path, json=json, params=params, headers=headers, content=content
        )


class AsyncSessions:
    """The sessions of the caller."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, session_id: str | None = None, **more: Any) -> AsyncSession:
        """Create a session; `title`, `user_id`, `metadata` and more go by name.

        Raises:
            ConflictError: There is one with this id (`session-exists`).
        """
        body = given(id=session_id, **more)
        created: SessionShape = await self._transport.call("POST", "/sessions", json=body)
        return AsyncSession(self._transport, created["id"])

    async def get(self, session_id: str) -> SessionShape:
        """Return a session as it stands."""
        answer: SessionShape = await self._transport.call("GET", f"/sessions/{segment(session_id)}")
        return answer

    async def list(self, *, page_size: int = 100, **filters: Any) -> AsyncIterator[SessionShape]:
        """Iterate over the sessions, the one with the latest activity first, page by page.

        Args:
            page_size: How many are asked for at a time.
            filters: `user_id`, `state`, `q`, `title_contains`, `sort_by` and what else the list
                takes.
        """
        params = given(limit=page_size, count="false", **filters)
        cursor: str | None = None
        while True:
            page: SessionPage = await self._transport.call(
                "GET", "/sessions", params={**params, "cursor": cursor}
            )
            for session in page["sessions"]:
                yield session
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def search(self, q: str, **filters: Any) -> AsyncIterator[SearchResult]:
        """Iterate over the messages that have all these words, the newest first, page by page."""
        cursor: str | None = None
        while True:
            page = await self._transport.call(
                "GET", "/search", params={"q": q, **filters, "cursor": cursor}
            )
            for result in page["results"]:
                yield result
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def delete(self, session_id: str) -> None:
        """Delete a session with everything in it."""
        await self._transport.call("DELETE", f"/sessions/{segment(session_id)}")

"""A session: chats, messages, its stream, branches, inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qs, urlsplit

from bamboo_gateway_client._async.run import AsyncRun
from bamboo_gateway_client._async.stream import AsyncEventStream
from bamboo_gateway_client.addresses import body_of_message, given, segment
from bamboo_gateway_client.conversation import Conversation
from bamboo_gateway_client.streaming import StreamHooks, StreamState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from bamboo_gateway_client._async.transport import AsyncTransport
    from bamboo_gateway_client.events import StreamedEvent
    from bamboo_gateway_client.types import (
        Branch,
        BranchSelected,
        Event,
        EventsAppended,
        File,
        Message,
        MessageInput,
        OpenInput,
        SessionCancelled,
    )
    from bamboo_gateway_client.types import Run as RunShape
    from bamboo_gateway_client.types import Session as SessionShape

    OnBusy = Literal["enqueue", "reject", "interrupt"]
    Said = str | MessageInput | Sequence[MessageInput]

PAGE = 200


class AsyncSession:
    """A handle on a session. Making one asks nothing of the gateway.

    Attributes:
        id: The session.
    """

    def __init__(self, transport: AsyncTransport, session_id: str) -> None:
        self.id = session_id
        self._transport = transport
        self._path = f"/sessions/{segment(session_id)}"

    # -- turns ------------------------------------------------------------------------------------

    async def chat(
        self,
        message: Said,
        *,
        files: Sequence[File | str] = (),
        agent: str | None = None,
        options: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> AsyncRun:
        """Say something, and return the run that answers. An unknown session is created.

        Args:
            message: The user's text, a message, or a list of messages (results of tools).
            files: Uploaded files that go with the text.
            agent: Which configured agent answers; default: the gateway's default one.
            options: Options for the agent.
            on_busy: What happens while a run is active; default: this one waits for it.
            run_id: A name for the run of the caller's own.
            idempotency_key: A key of the caller's own, for a chat that is sent again after a crash
                of this program; default: a new one.
            more: Further members of the request, by name.

        Raises:
            ProblemError, UnreachableError: Nothing was said, as far as is known.
        """
        body = given(
            message=body_of_message(message, files),
            session_id=self.id,
            agent=agent,
            options=options,
            on_busy=on_busy,
            run_id=run_id,
            **more,
        )
        return await self._run("/chat", body, idempotency_key)

    async def edit(self, message_id: str, message: Said, **more: Any) -> AsyncRun:
        """Put another message in the place of one of the user's, in a new branch, and answer it.

        Args:
            message_id: The message of the user.
            message: What stands there now.
            more: As for `chat`.
        """
        return await self.chat(message, edit_message_id=message_id, **more)

    async def regenerate(
        self,
        message_id: str | None = None,
        *,
        agent: str | None = None,
        options: Mapping[str, Any] | None = None,
        on_busy: OnBusy | None = None,
        run_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncRun:
        """Answer again, in a new branch: that message of the assistant, or by default the last."""
        body = given(
            message_id=message_id, agent=agent, options=options, on_busy=on_busy, run_id=run_id
        )
        return await self._run(f"{self._path}/regenerate", body, idempotency_key)

    async def inputs(self) -> list[OpenInput]:
        """Return what the agent has asked and nobody has answered."""
        answer: dict[str, list[OpenInput]] = await self._transport.call(
            "GET", f"{self._path}/inputs"
        )
        return answer["inputs"]

    async def answer(
        self, answers: Mapping[str, Any], *, run_id: str | None = None
    ) -> AsyncRun | None:
        """Answer what the agent has asked: `{request_id: answer}`.

        An approval's answer is `{"approved": true}`, or false with a `reason`.

        Returns:
            The run that gets the answers; None while other requests are still open.
        """
        body = given(answers=answers, run_id=run_id)
        accepted = await self._transport.call("POST", f"{self._path}/inputs", json=body)
        return None if accepted["run_id"] is None else AsyncRun(self._transport, accepted)

    def run(self, run_id: str) -> AsyncRun:
        """Return a handle on a run of this session."""
        return AsyncRun(self._transport, {"run_id": run_id, "session_id": self.id})

    async def runs(self) -> AsyncIterator[RunShape]:
        """Iterate over the session's runs, page by page."""
        async for run in self._pages(f"{self._path}/runs", "runs", {}):
            yield run

    async def cancel(self) -> SessionCancelled:
        """Cancel the active run and all that wait."""
        answer: SessionCancelled = await self._transport.call("POST", f"{self._path}/cancel")
        return answer

    async def _run(self, path: str, body: Mapping[str, Any], key: str | None) -> AsyncRun:
        headers = given(**{"Idempotency-Key": key})
        accepted = await self._transport.call("POST", path, json=body, headers=headers)
        return AsyncRun(self._transport, accepted)

    # -- reading ----------------------------------------------------------------------------------

    def stream(
        self,
        *,
        after: str | None = None,
        from_start: bool = False,
        until_complete: bool = False,
        run_id: str | None = None,
        connection_id: str | None = None,
        hooks: StreamHooks | None = None,
    ) -> AsyncEventStream[StreamedEvent]:
        """Return the session's events as they come, over any number of connections.

        Args:
            after: Begin behind this position; default: before the active run, or now.
            from_start: Begin with the session's first event.
            until_complete: End with a run: `run_id`'s, or the active or the next one.
            run_id: That run.
            connection_id: A name for the connection; an older one of the same name is closed.
            hooks: Are called when the connection is lost and found.
        """
        params = given(
            after=after,
            run_id=run_id,
            connection_id=connection_id,
            **{
                "from": "start" if from_start else None,
                "until": "complete" if until_complete else None,
            },
        )
        state = StreamState(
            self._transport.retries,
            after=after,
            run_id=run_id,
            until_complete=until_complete,
            hooks=hooks,
        )
        return AsyncEventStream(self._transport, f"/stream/{segment(self.id)}", params, state)

    async def messages(
        self, *, branch: str | None = None, page_size: int = PAGE, newest_first: bool = False
    ) -> AsyncIterator[Message]:
        """Iterate over the messages of the current branch (or another one), page by page."""
        params = given(branch=branch, order="desc" if newest_first else None, limit=page_size)
        cursor = "before" if newest_first else "after"
        async for message in self._pages(f"{self._path}/messages", "messages", params, cursor):
            yield message

    async def events(
        self, *, after: str = "0", types: Sequence[str] = (), page_size: int = PAGE
    ) -> AsyncIterator[Event]:
        """Iterate over the events that the log has now, page by page.

        Raises:
            GoneError: The log has no such position any more.
        """
        params: dict[str, Any] = {"limit": page_size, "type": list(types) or None}
        while True:
            page = await self._transport.call(
                "GET", f"{self._path}/events", params={**params, "after": after}
            )
            for event in page["events"]:
                yield event
            if not page["has_more"]:
                return
            after = page["next"]

    async def conversation(self, *, newest: int | None = None) -> Conversation:
        """Load the messages and what a page shows beside them.

        Args:
            newest: Load so many messages from the end; default: all.
        """
        found: list[Message] = []
        params: dict[str, Any] = {"order": "desc", "limit": min(newest or PAGE, PAGE)}
        page = await self._transport.call("GET", f"{self._path}/messages", params=params)
        after = parse_qs(urlsplit(page["stream_url"]).query).get("after", [page["position"]])[0]
        loaded = page["position"]
        found += page["messages"]
        while page["has_more"] and (newest is None or len(found) < newest):
            page = await self._transport.call(
                "GET",
                f"{self._path}/messages",
                params={**params, "before": page["next_cursor"]},
            )
            found += page["messages"]
        # After the messages: what it has more is in the stream too, where it changes nothing.
        return Conversation(await self.get(), found[:newest][::-1], after, loaded)

    async def follow(
        self, *, newest: int | None = None, hooks: StreamHooks | None = None
    ) -> AsyncIterator[Conversation]:
        """Yield the conversation as people see it, now and after each event.

        It is the same object until the messages have to be loaded again, after which it is a new
        one. The iteration ends when the session was closed or deleted.
        """
        while True:
            conversation = await self.conversation(newest=newest)
            yield conversation
            async with self.stream(after=conversation.position, hooks=hooks) as stream:
                async for event in stream:
                    conversation.apply(event)
                    conversation.position = stream.position
                    if conversation.is_stale:
                        break
                    yield conversation
            if not conversation.is_stale:
                return

    # -- the session itself -----------------------------------------------------------------------

    async def get(self) -> SessionShape:
        """Return the session as it stands."""
        answer: SessionShape = await self._transport.call("GET", self._path)
        return answer

    async def update(self, **changes: Any) -> SessionShape:
        """Change `title`, `metadata`, `ttl_seconds` and what else a PATCH takes; None removes."""
        answer: SessionShape = await self._transport.call("PATCH", self._path, json=changes)
        return answer

    async def delete(self) -> None:
        """Delete the session with everything in it."""
        await self._transport.call("DELETE", self._path)

    async def close(self) -> SessionShape:
        """Close the session: it can be read, and nothing is added any more."""
        answer: SessionShape = await self._transport.call("POST", f"{self._path}/close")
        return answer

    async def reopen(self, ttl_seconds: int | None = None) -> SessionShape:
        """Open a session again that was closed or has expired."""
        body = given(ttl_seconds=ttl_seconds) or None
        answer: SessionShape = await self._transport.call("POST", f"{self._path}/reopen", json=body)
        return answer

    async def fork(self, from_message_id: str | None = None, **more: Any) -> AsyncSession:
        """Begin a session of its own with the messages up to this one; default: all."""
        body = given(from_message_id=from_message_id, **more)
        child = await self._transport.call("POST", f"{self._path}/fork", json=body)
        return AsyncSession(self._transport, child["id"])

    async def branches(self) -> list[Branch]:
        """Return the branches inside the session, the current one among them."""
        answer: dict[str, list[Branch]] = await self._transport.call(
            "GET", f"{self._path}/branches"
        )
        return answer["branches"]

    async def select_branch(self, branch_id: str) -> BranchSelected:
        """Make another branch the current one."""
        answer: BranchSelected = await self._transport.call(
            "POST", f"{self._path}/branches/{segment(branch_id)}/select"
        )
        return answer

    async def add_messages(self, messages: MessageInput | Sequence[MessageInput]) -> Any:
        """Add messages without starting a run: a list is added as a whole or not at all."""
        return await self._transport.call("POST", f"{self._path}/messages", json=messages)

    async def append_events(self, events: Sequence[Mapping[str, Any]]) -> EventsAppended:
        """Append events, all or none: `custom` ones, or those of an open external run."""
        answer: EventsAppended = await self._transport.call(
            "POST", f"{self._path}/events", json=list(events)
        )
        return answer

    async def export(self, format: Literal["markdown", "json", "yaml"] = "markdown") -> bytes:  # noqa: A002
        """Return the session as a document."""
        response = await self._transport.send(
            "GET", f"{self._path}/export", params={"format": format}
        )
        return response.content

    async def _pages(
        self, path: str, name: str, params: Mapping[str, Any], cursor: str = "cursor"
    ) -> AsyncIterator[Any]:
        after: str | None = None
        while True:
            page = await self._transport.call("GET", path, params={**params, cursor: after})
            for one in page[name]:
                yield one
            if not page["has_more"]:
                return
            after = page["next_cursor"]

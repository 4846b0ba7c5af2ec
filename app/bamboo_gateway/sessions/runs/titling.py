"""Titles that an agent writes (`titles = "agent:NAME"`), each once.

The agent is asked after the first answer, beside the session: nothing of that is in the log but the
title. When the agent fails or takes too long, the first message gives the title
(`domain.titles`). A value of the store names each session that waits for its title, so that a crash
loses none and no start looks at all sessions. Where several processes share a store, the value is
the process that owes the title, and only one at a time asks for a session's title.
"""

from collections.abc import AsyncGenerator, Callable, Container, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final

import anyio
import structlog

from bamboo_gateway.agents.base import Agent, AgentConfigError, Turn
from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import BambooError, Conflict, NotFound
from bamboo_gateway.domain.events import Draft, MessageSaid, TerminalEvent, Token
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.short_text import title_of
from bamboo_gateway.domain.titles import is_untitled
from bamboo_gateway.domain.views import session_view
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import find_on_path
from bamboo_gateway.sessions.runs.detached_task import DetachedTask
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter, Vanished
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.replicas import Presence, Replicas
from bamboo_gateway.storage.reports import ValueChange

log = structlog.get_logger(__name__)

_KIND: Final = "untitled"
"""The kind of the values that name the sessions whose title an agent has to give."""

_BY_ONE: Final = "1"
"""The value where one process uses the store; where several do, it names the one that owes."""

_TAKE_UP_SECONDS: Final = 10.0
"""How often the leader looks for the titles that processes owed which are dead."""

_CLAIM: Final = "titling"
"""The kind of the presence of a process that asks for a title."""

_AGENT: Final = "agent:"

ASK_SECONDS: Final = 60.0
"""How long an agent may take for a title: a model that thinks needs half of it."""

_AT_ONCE: Final = 4
"""How many titles are asked for at once, so that they take little from the conversations."""

_ANSWER_CHARS_MAX: Final = 400
"""The most that is read of an agent's answer; a title has 60 characters."""

_SAID_CHARS_MAX: Final = 2000
"""How much of a message the agent gets: a title needs the topic, and tokens cost money."""

_MESSAGES_MAX: Final = 4
"""How many messages the agent gets: the first question with its answer."""

_ASK: Final = (
    "Write a title for the conversation above: at most six words, in its language, without "
    "quotation marks and without a full stop. Answer with the title alone."
)


def check_titles(titles: str, agents: Container[str]) -> None:
    """Check that the agent of the setting exists.

    Raises:
        AgentConfigError: It does not.
    """
    name = titles.removeprefix(_AGENT)
    if titles.startswith(_AGENT) and name not in agents:
        raise AgentConfigError(f"titles: there is no agent {name!r}")


class Titles:
    """Asks an agent for the titles of sessions, and writes them."""

    def __init__(
        self, context: Context, transactions: Transactions, agents: Mapping[str, Agent]
    ) -> None:
        titles = context.settings.titles
        self._context = context
        self._transactions = transactions
        self._agent: Agent | None = None
        if titles.startswith(_AGENT):
            self._agent = agents[titles.removeprefix(_AGENT)]
        self._at_once = anyio.Semaphore(_AT_ONCE)
        self._asking: set[str] = set()
        # Those that this process has noted in the store. A run may end with a title of somebody.
        self._noted: set[str] = set()
        transactions.registry.on_slot_free.append(self.run_ended)

    async def expect(self, writer: SessionWriter) -> None:
        """Note durably that the session needs a title once its run has ended."""
        if self._agent is None or not is_untitled(writer.head):
            return
        replicas = self._context.store.replicas
        owing = replicas.executor.encode() if replicas is not None else b"1"
        try:
            await self._context.store.write_values([ValueChange(_KIND, writer.id, owing)])
            self._noted.add(writer.id)
        except BambooError as error:
            # The conversation is what matters; without the note only a crash loses the title.
            log.warning("a title may be lost", session_id=writer.id, code=error.code)

    def run_ended(self, writer: SessionWriter) -> None:
        """Ask for the title if a run has ended and there is none."""
        head = writer.head
        if self._agent is None or head.active is not None or not head.counts.runs:
            return
        if writer.id in self._noted or (is_untitled(head) and not writer.gone):
            self._ask_later(writer.id)

    async def take_up(self) -> None:
        """Give the titles that processes owe which are not there any more.

        Of several processes that share a store one does it, again and again.
        """
        if self._agent is None:
            return
        replicas = self._context.store.replicas
        if replicas is None:
            await self._take_up(lambda _: True)
            return
        while True:
            if replicas.is_leader:
                try:
                    await self._take_up(partial(_is_owed_by_dead, replicas))
                except BambooError as error:
                    log.warning("no look for titles that are owed", code=error.code)
            await anyio.sleep(_TAKE_UP_SECONDS)

    async def _take_up(self, is_owed: Callable[[bytes], bool]) -> None:
        after = ""
        while page := await self._context.store.values(_KIND, after=after, limit=100):
            for session_id, value in page:
                if session_id not in self._asking and is_owed(value):
                    self._asking.add(session_id)
                    await self._give(session_id)
            after = page[-1][0]

    def _ask_later(self, session_id: str) -> None:
        if session_id not in self._asking:
            self._asking.add(session_id)
            self._context.tasks.spawn(self._give, session_id, name=f"title of {session_id}")

    async def _give(self, session_id: str) -> None:
        try:
            async with self._at_once, self._alone(session_id) as alone:
                if alone:
                    title = await self._title(session_id)
                    if title is not None:
                        await self._write(session_id, title)
                    await self._context.store.write_values([ValueChange(_KIND, session_id, None)])
            self._noted.discard(session_id)
        except (NotFound, Vanished, Conflict):
            await self._forget(session_id)  # deleted since
        except BambooError as error:
            # Closed, or the disk is full. The next run or start tries again.
            log.warning("no title could be given", session_id=session_id, code=error.code)
        except Exception:  # the boundary: a damaged message must not end the gateway
            log.exception("no title could be given", session_id=session_id)
        finally:
            self._asking.discard(session_id)

    @asynccontextmanager
    async def _alone(self, session_id: str) -> AsyncGenerator[bool]:
        """Claim the title for this process; False when another one is asking for it."""
        replicas = self._context.store.replicas
        if replicas is None:
            yield True
            return
        claim = Presence(session_id, _CLAIM, "title", replicas.executor, b"{}")
        if not await replicas.claim(claim):
            yield False
            return
        try:
            yield True
        finally:
            await replicas.unclaim(session_id, _CLAIM, claim.name)

    async def _forget(self, session_id: str) -> None:
        self._noted.discard(session_id)
        try:
            await self._context.store.write_values([ValueChange(_KIND, session_id, None)])
        except BambooError as error:
            log.warning("a note could not be removed", session_id=session_id, code=error.code)

    async def _write(self, session_id: str, title: str) -> None:
        def decide(writer: SessionWriter) -> Decision:
            if not is_untitled(writer.head):
                return Decision([], {})
            return Decision([Draft("session_updated", {"title": title})], {})

        await self._transactions.run(GATEWAY, session_id, decide)

    async def _title(self, session_id: str) -> str | None:
        head = await self._context.store.load(session_id)
        if head is None:
            raise NotFound("The session is gone.")
        if not is_untitled(head) or head.active is not None:
            return None
        messages = await self._beginning_of(head)
        first = next((message for message in messages if message.role == "user"), None)
        if first is None:
            return None
        if any(message.role == "assistant" for message in messages):
            title = title_of(await self._asked(head, messages))
            if title is not None:
                return title
        return title_of(first.text)

    async def _beginning_of(self, head: SessionHead) -> list[Message]:
        found = await find_on_path(
            self._context.store,
            head,
            path_of(head),
            before=head.seq + 1,
            limit=3 * _MESSAGES_MAX,  # results of tools may stand between
        )
        said = (Message.of(decode(event.body)["message"]) for event in found)
        spoken = [one for one in said if one.role in ("user", "assistant") and one.text.strip()]
        return [
            Message(one.id, one.role, one.text[:_SAID_CHARS_MAX], one.created_at)
            for one in spoken[:_MESSAGES_MAX]
        ]

    async def _asked(self, head: SessionHead, messages: list[Message]) -> str:
        """Return what the agent answers; nothing when it fails or takes too long."""
        now_ms = self._context.clock.now_ms()
        ask = Message(self._context.ids.make("msg_", now_ms), "user", _ASK, format_ms(now_ms))
        run_id = self._context.ids.make("title_", now_ms)
        view = session_view(head, "idle", None)
        turn = Turn(run_id, [*messages, ask], {**view}, {}, anyio.Event())
        texts: list[str] = []
        task = DetachedTask(self._context.settings.agent_abandon_seconds)
        with anyio.move_on_after(ASK_SECONDS):
            try:
                await task.run(lambda: self._listen(turn, texts), f"agent {run_id}")
            except Exception as error:  # noqa: BLE001 - the boundary: users' code; a title may fail
                log.warning(
                    "an agent gave no title", session_id=head.id, error=type(error).__name__
                )
                return ""
            return _unquoted("".join(texts))
        return ""

    async def _listen(self, turn: Turn, texts: list[str]) -> None:
        assert self._agent is not None
        left = _ANSWER_CHARS_MAX
        async with aclosing(self._agent.run(turn)) as events:  # type: ignore[type-var]
            async for event in events:
                text = ""
                if isinstance(event, Token):
                    text = event.content
                elif isinstance(event, MessageSaid):
                    text = Message.text_of(event.message.get("content") or "")
                elif isinstance(event, TerminalEvent):
                    if event.type != "complete":
                        texts.clear()
                    return
                texts.append(text[:left])
                left -= len(text)
                if left <= 0:
                    return


def _is_owed_by_dead(replicas: Replicas, value: bytes) -> bool:
    """Return whether the process that noted a title is not there any more."""
    executor = value.decode()
    return executor == _BY_ONE or (executor != replicas.executor and replicas.is_dead(executor))


def _unquoted(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[0].strip().strip("\"'“”„«»*# ").removeprefix("Title: ") if lines else ""

"""Reloader: loads a session's head again when the one in memory may be wrong."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import structlog

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter

log = structlog.get_logger(__name__)

_RELOAD_RETRY_SECONDS = 0.5
"""How long to wait before the store is asked again for a head that it could not load."""


@dataclass(slots=True)
class _Outage:
    """The heads that the store could not load for one reason.

    Attributes:
        waiting: The sessions that are still waited for.
        sessions: How many there were in all.
        tries: How many times the store was asked in vain.
    """

    waiting: set[str] = field(default_factory=set)
    sessions: int = 0
    tries: int = 0


class Reloader:
    """Loads heads again, after a failed commit or a call that wrote past the session writer.

    Args:
        context: Has the store and the background tasks.
        on_gone: Called with a session that was deleted, or whose log has another epoch.
        on_loaded: Called with a session that is ready again.
    """

    def __init__(
        self,
        context: Context,
        on_gone: Callable[[SessionWriter], None],
        on_loaded: Callable[[SessionWriter], None],
    ) -> None:
        self._context = context
        self._on_gone = on_gone
        self._on_loaded = on_loaded
        self._reloading: set[SessionWriter] = set()
        self._outages: dict[str, _Outage] = {}

    @asynccontextmanager
    async def holding(self, writer: SessionWriter) -> AsyncIterator[None]:
        """Keep a session unchanged while a call writes to its log without its writer.

        Call it only when the session is ready, without an await between. All that was decided is
        durable when the block begins, and nothing is decided until it ends.
        """
        writer.hold()
        try:
            await writer.settled()
            yield
        except BaseException:
            # Also when the call was cancelled: only the store knows the true head now.
            self.later(writer)
            raise
        writer.resume()

    def later(self, writer: SessionWriter) -> None:
        """Load the head in a background task. The session's gate is closed until then.

        When the store cannot load it, requests get the error instead of waiting for the next try.
        """
        if writer not in self._reloading:
            self._reloading.add(writer)
            self._context.tasks.spawn(self._reload, writer, name=f"reload {writer.id}")

    async def _reload(self, writer: SessionWriter) -> None:
        head = await self._load_patiently(writer)
        self._reloading.discard(writer)
        if head is None or head.epoch != writer.epoch:
            # The log has another epoch: clients reconnect and get `reset`.
            writer.vanish("deleted" if head is None else "shutdown")
            self._on_gone(writer)
            writer.resume()
            return
        writer.resume(head)
        self._on_loaded(writer)

    async def _load_patiently(self, writer: SessionWriter) -> SessionHead | None:
        while True:
            try:
                head = await self._context.store.load(writer.id)
            except BambooError as error:
                self._note_failure(writer.id, error.code)
                writer.not_loaded(error)
                await anyio.sleep(_RELOAD_RETRY_SECONDS)
            else:
                self._note_success(writer.id)
                return head

    def _note_failure(self, session_id: str, code: str) -> None:
        """Log the first failure of an outage; count the others, which come twice a second."""
        outage = self._outages.get(code)
        if outage is None:
            outage = self._outages[code] = _Outage()
            log.warning("heads not loaded, trying again", code=code, session_id=session_id)
        if session_id not in outage.waiting:
            outage.waiting.add(session_id)
            outage.sessions += 1
        outage.tries += 1

    def _note_success(self, session_id: str) -> None:
        """Log the end of each outage in which this session was the last one that waited."""
        for code, outage in list(self._outages.items()):
            if session_id in outage.waiting:
                outage.waiting.remove(session_id)
                if not outage.waiting:
                    del self._outages[code]
                    counts = {"sessions": outage.sessions, "tries": outage.tries}
                    log.info("heads loaded again", code=code, **counts)

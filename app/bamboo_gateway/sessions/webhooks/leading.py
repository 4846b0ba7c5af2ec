"""Which of several processes sends webhooks, and what the others ask of it.

One process leads. It loads the webhooks, sends, and looks each second what the others have created,
changed and deleted. When another one leads, it stops, and that one goes on with what is in the
store. For a moment two may send: receivers know a message that comes twice by its id.

The others ask by values of the kind `webhook-ask`, which the leader removes when it has done it:

* `forget/<digest>`: the user in the value is erased.
* `tested/<webhook id>`: an attempt was written; the number of the next one has to be above it.
"""

from hashlib import sha256
from typing import TYPE_CHECKING, Final

import anyio
import structlog

from bamboo_gateway.domain.errors import BambooError, Unavailable
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.webhooks.kept import (
    ASK,
    CURSOR,
    CURSOR_KEY,
    WEBHOOK,
    Cursor,
    each_value,
)
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange

if TYPE_CHECKING:
    from bamboo_gateway.sessions.webhooks.service import Webhooks

log = structlog.get_logger(__name__)

TURN_SECONDS: Final = 1.0
"""How often the leader looks for changes of the others, and the others whether they lead."""

ASKED_SECONDS: Final = 20.0
"""How long to wait for the leader: longer than it takes until a dead one has a successor."""

_SEEN_SECONDS: Final = 5.0
"""How long a deletion waits until the leader has looked at the session. It looks each second."""

_WAIT_SECONDS: Final = 0.1

_FORGET: Final = "forget/"
_TESTED: Final = "tested/"


class Leading:
    """Begins and ends sending, as this process leads or not.

    Args:
        context: Knows whether it leads.
        webhooks: The webhooks.
    """

    def __init__(self, context: Context, webhooks: "Webhooks") -> None:
        self._context = context
        self._store = context.store
        self._webhooks = webhooks
        self._is_sending = False
        self._is_late = False

    async def run(self) -> None:
        """Look each second, until the process ends."""
        while not self._context.drain.has_begun:
            try:
                await self._turn()
                self._is_late = False
            except BambooError as error:
                if not self._is_late:
                    log.warning("webhooks wait for the store", code=error.code)
                self._is_late = True
            await anyio.sleep(TURN_SECONDS)

    async def _turn(self) -> None:
        if not self._context.leads:
            if self._is_sending:
                self._is_sending = False
                await self._webhooks.end_sending()
                log.info("another process sends the webhooks now")
            return
        if not self._is_sending:
            # What an earlier try began is there already, when the store failed in between.
            if not self._webhooks.couriers:
                await self._webhooks.begin_sending()
            self._is_sending = True
        else:
            await self._webhooks.take_over_changes()
        await self._do_what_is_asked()

    async def _do_what_is_asked(self) -> None:
        async for key, value in each_value(self._store, ASK):
            if key.startswith(_FORGET):
                await self._webhooks.forget_told(value.decode())
            elif key.startswith(_TESTED):
                courier = self._webhooks.couriers.get(key.removeprefix(_TESTED))
                if courier is not None:
                    await courier.deliveries.load()
            await self._store.write_values([ValueChange(ASK, key, None)])


async def ask_to_forget(store: SessionStore, user_id: str) -> None:
    """Let the leader remove what webhooks are told of a user, and wait until it has.

    Raises:
        Unavailable: No process does it now; it is done later, and the same call says so.
        StorageFull, StorageFailed: It could not be asked.
    """
    key = _FORGET + sha256(user_id.encode()).hexdigest()
    await store.write_values([ValueChange(ASK, key, user_id.encode())])
    with anyio.move_on_after(ASKED_SECONDS):
        while True:
            if await store.value(ASK, key) is None:
                return
            await anyio.sleep(_WAIT_SECONDS)
    raise Unavailable(
        "The process that sends webhooks does not answer. Nothing but that is left to do: retry in "
        "a moment."
    )


async def tell_tested(store: SessionStore, webhook_id: str) -> None:
    """Tell the leader that an attempt was written beside its own."""
    await store.write_values([ValueChange(ASK, _TESTED + webhook_id, b"1")])


async def until_seen(store: SessionStore, session_id: str) -> None:
    """Wait until the leader has looked at all that has changed so far, with this session.

    Raises:
        StorageFailed, Unavailable: The store does not answer.
    """
    if not await store.values(WEBHOOK, limit=1):
        return
    feed, number = await store.last_change()
    with anyio.move_on_after(_SEEN_SECONDS):
        while True:
            value = await store.value(CURSOR, CURSOR_KEY)
            cursor = Cursor.read(value) if value is not None else Cursor("", 0)
            if cursor.feed == feed and cursor.phase is None and cursor.number >= number:
                return
            await anyio.sleep(_WAIT_SECONDS)
    log.warning("events of a deleted session may not be told", session_id=session_id)

"""What a client takes back: the last message of the conversation, or the response of a run.

The log keeps both. A hidden message is no part of the current path any more: a new branch begins
behind the message before it. A hidden run is hidden from protocols that show runs by themselves.
"""

from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.errors import Refused
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.limits import HIDDEN_RUNS_MAX
from bamboo_gateway.domain.paths import path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import last_on_path
from bamboo_gateway.sessions.queries import find_run
from bamboo_gateway.sessions.runs.branching import Branching, Point, behind, named_message
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.base import SessionStore


async def hide_message(
    context: Context,
    transactions: Transactions,
    maker: Maker,
    caller: Caller,
    session_id: str,
    message_id: str,
) -> None:
    """Take the last message of the conversation out of the current path.

    Raises:
        NotFound: There is no such session or message.
        Refused: `not-the-last-message`; `run-active`; `too-many-branches`.
    """

    async def resolve(store: SessionStore, head: SessionHead) -> Point:
        record = await named_message(store, head, message_id)
        before = await last_on_path(store, head, path_of(head), record.seq)
        if before is None:
            return Point()
        return await behind(_id_of(before.body))(store, head)

    branching = Branching(context.store, maker, resolve, context.settings.max_branches)

    async def prepare(writer: SessionWriter) -> None:
        while True:
            await branching.prepare(writer)
            if branching.is_fresh(writer):
                return

    def decide(writer: SessionWriter) -> Decision[dict[str, Any]]:
        writer.check_not_busy("A run is executing or queued; cancel it or wait for its end.")
        if writer.head.tip_id != message_id:
            raise Refused(
                f"The message {message_id!r} is not the last one of the conversation.",
                code="not-the-last-message",
            )
        hidden = Draft("message_hidden", {"message_id": message_id})
        return Decision([*branching.drafts(writer), hidden], {})

    await transactions.run(caller, session_id, decide, prepare=prepare)


async def hide_run(
    context: Context, transactions: Transactions, caller: Caller, session_id: str, run_id: str
) -> None:
    """Hide a run that has ended. Repeats do nothing.

    Raises:
        NotFound: There is no such session or run.
        Refused: `run-active`: it has not ended. `too-many-hidden-runs`.
    """

    async def prepare(writer: SessionWriter) -> None:
        await find_run(context.store, writer.id, writer.epoch, run_id)

    def decide(writer: SessionWriter) -> Decision[dict[str, Any]]:
        head = writer.head
        if run_id in head.hidden_runs:
            return Decision([], {})
        is_queued = any(queued.run_id == run_id for queued in head.queue)
        if is_queued or (head.active is not None and head.active.run_id == run_id):
            raise Refused("The run has not ended. Cancel it first.", code="run-active")
        if len(head.hidden_runs) >= HIDDEN_RUNS_MAX:
            raise Refused(
                f"Limit reached: {HIDDEN_RUNS_MAX} hidden runs in this session.",
                code="too-many-hidden-runs",
            )
        return Decision([Draft("run_hidden", {"run_id": run_id})], {})

    await transactions.run(caller, session_id, decide, prepare=prepare, accepts="closed")


def _id_of(body: bytes) -> str:
    message_id: str = decode(body)["message"]["id"]
    return message_id

"""Branches of a conversation: the list of them, and the choice of the current one."""

from bamboo_gateway.domain.branch_folds import state_at
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.codec import decode
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.paths import (
    BRANCH_SPANS_MAX,
    branch_of,
    branches_of,
    path_of,
    span_count,
)
from bamboo_gateway.domain.positions import Position
from bamboo_gateway.domain.sessions import Branch, SessionHead
from bamboo_gateway.sessions.answers import Branches, BranchSelected, BranchView
from bamboo_gateway.sessions.commands import Idempotency, Outcome
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import last_on_path
from bamboo_gateway.sessions.queries import unknown_branch
from bamboo_gateway.sessions.runs.branching import closing_of_tip, too_many_branches
from bamboo_gateway.sessions.runs.factory import Maker
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions
from bamboo_gateway.storage.base import SessionStore


async def list_branches(store: SessionStore, head: SessionHead) -> Branches:
    """Return all branches of a session."""
    if head.tip_id is None and head.message_count:
        # A head of an earlier version: it has one branch.
        last = await last_on_path(store, head, path_of(head), head.seq + 1)
        head.tip_id = decode(last.body)["message"]["id"] if last is not None else None
    return {"branches": [_view(head, branch) for branch in branches_of(head)]}


async def select(
    context: Context,
    transactions: Transactions,
    maker: Maker,
    caller: Caller,
    session_id: str,
    branch_id: str,
    idem: Idempotency | None,
) -> Outcome[BranchSelected]:
    """Make a branch the current one. What waits at the tip that is left is closed.

    Raises:
        NotFound: There is no such session or branch.
        RunActive: A run is executing or queued.
        Refused: There are `BRANCH_SPANS_MAX` changes between branches.
    """

    def decide(writer: SessionWriter) -> Decision[BranchSelected]:
        head = writer.head
        branch = branch_of(head, branch_id)
        if branch is None:
            raise unknown_branch(branch_id)
        writer.check_not_busy("A run is executing or queued; cancel it or wait for its end.")
        drafts: list[Draft] = []
        if branch_id != head.branch_id:
            if span_count(head) >= BRANCH_SPANS_MAX:
                raise too_many_branches(context.settings.max_branches)
            closing = closing_of_tip(maker, head)
            drafts = [*closing, Draft("branch_selected", {"branch_id": branch_id})]
        position = Position(writer.epoch, head.seq + len(drafts))
        view = _view(head, branch) | {"current": True}
        return Decision(drafts, {**view, "position": str(position)})

    return await transactions.run(caller, session_id, decide, idem=idem)


def _view(head: SessionHead, branch: Branch) -> BranchView:
    state = state_at(head, branch.id)
    return {
        "branch_id": branch.id,
        "parent_branch_id": branch.parent_id,
        "from_message_id": branch.from_id,
        "tip_message_id": state.tip_id,
        "message_count": state.message_count,
        "created_at": format_ms(branch.created_at),
        "current": branch.id == head.branch_id,
    }

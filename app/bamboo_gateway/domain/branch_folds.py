"""How events change the branches of a head, and the place in the tree that new messages get.

`branch_started` has in `path` what the gateway has read of the new path, so that the fold stays
pure: `seq` (of the message that it begins behind, or 0), `next_id` (the message that followed there
so far), `left_id` (the tip that is left), `message_count`, `by_role`, `tool_calls`,
`first_message_at`, `last_message_at` and `preview`. `summary_message_seq` is there for a summary of
an earlier version, which does not name its last message.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.paths import branch_of, owner_of, path_of
from bamboo_gateway.domain.sessions import (
    MAIN_BRANCH,
    OPEN_SPAN,
    Branch,
    PathState,
    SessionHead,
    SummaryRef,
)


def start_branch(head: SessionHead, event: dict[str, Any], now: int) -> None:
    """Fold `branch_started`."""
    path, seq = event["path"], event["seq"]
    from_id, parent_id = event["from_message_id"], event["parent_branch_id"]
    if head.summary is not None and "summary_message_seq" in path:
        head.summary = replace(head.summary, message_seq=path["summary_message_seq"])
    summaries = _summaries(head)
    _leave(head, seq, path.get("left_id"))
    parent = branch_of(head, parent_id) if parent_id is not None else None
    if parent_id is not None and parent is None:
        # The begin of the parent is lost (a damaged log): the message is where it counts now.
        parent_id = owner_of(head, path["seq"])
        parent = branch_of(head, parent_id) if parent_id is not None else None
    known = parent.state.system_seqs if parent is not None else []
    state = PathState(
        path["message_count"],
        path["by_role"],
        path["tool_calls"],
        _ms(path["first_message_at"]),
        _ms(path["last_message_at"]),
        [one for one in known if one <= path["seq"]],
        from_id,
        preview=path.get("preview"),
    )
    began = parse_ms(event["created_at"]) if "created_at" in event else now
    branch = Branch(event["branch_id"], began, parent_id, from_id, path["seq"], (), state)
    head.branches = (*head.branches, branch)
    key = from_id or ""
    if key not in head.branch_points:
        following = [path["next_id"]] if path.get("next_id") else []
        head.branch_points = {**head.branch_points, key: following}
    _enter(head, branch, seq)
    # Of the summaries that are known, the one saved last whose last message is on the path counts.
    spans = path_of(head)
    counting = [one for one in summaries if not one.end_seq or one.end_seq in spans]
    head.summary = max(counting, key=lambda one: one.seq, default=None)


def select_branch(head: SessionHead, event: dict[str, Any], now: int) -> None:
    """Fold `branch_selected`."""
    del now
    if branch_of(head, event["branch_id"]) is None:
        return  # its begin is lost (a damaged log): what it said goes on behind the present tip
    _leave(head, event["seq"], None)
    branch = branch_of(head, event["branch_id"])
    assert branch is not None  # as before
    _enter(head, branch, event["seq"])


def note_message(head: SessionHead, message_id: str) -> None:
    """Fold the place of a new message: it follows the tip, and is the tip from now on."""
    parent = head.tip_id or ""
    if parent in head.branch_points:
        following = [*head.branch_points[parent], message_id]
        head.branch_points = {**head.branch_points, parent: following}
    head.tip_id = message_id


def note_summary(head: SessionHead, summary: SummaryRef | None) -> None:
    """Fold a summary that was saved, or with None that the present one was deleted.

    A summary counts on every path with the last message that it covers. With the present summary
    every other one is deleted that the current path would otherwise get back.
    """
    if not head.branches:
        head.summary = summary
        return
    head_path = path_of(head)
    # An import saves those of other branches too.
    if summary is None or not summary.end_seq or summary.end_seq in head_path:
        head.summary = summary
    branches: list[Branch] = []
    kept: list[SummaryRef] = []
    if summary is None:
        kept = [one for one in _summaries(head) if one.end_seq and one.end_seq not in head_path]
    for branch in head.branches:
        path = path_of(head, branch.id)
        chosen = branch.state.summary
        if summary is not None:
            counts = not summary.end_seq or summary.end_seq in path
            chosen = summary if counts else chosen
        else:
            counting = [one for one in kept if one.end_seq in path]
            chosen = max(counting, key=lambda one: one.seq, default=None)
        branches.append(replace(branch, state=replace(branch.state, summary=chosen)))
    head.branches = tuple(branches)


def forget_branches(head: SessionHead) -> None:
    """Fold a merge of an earlier version that replaced the history: one branch is left."""
    head.tip_id = None
    head.branch_id, head.branches, head.branch_points = MAIN_BRANCH, (), {}


def linked(head: SessionHead, drafts: Sequence[Draft]) -> Sequence[Draft]:
    """Return drafts whose messages have `parent_id` and `branch_id`, for a log with this head.

    The first message after a head of an earlier version gets no `parent_id`, since its parent is
    not known: it is the message before it.
    """
    if not any(draft.type == "message" for draft in drafts):
        return drafts
    placed: list[Draft] = []
    tip, branch_id = head.tip_id, head.branch_id
    is_known = tip is not None or not head.message_count
    for draft in drafts:
        kind, fields = draft
        if kind == "message":
            message = fields["message"]
            place = {"parent_id": tip} if is_known else {}
            shape = {"id": message["id"], **place, "branch_id": branch_id}
            rest = {name: message[name] for name in message if name not in _PLACE}
            fields = {**fields, "message": {**shape, **rest}}
            tip, is_known = message["id"], True
        elif kind == "branch_started":
            tip, branch_id, is_known = fields["from_message_id"], fields["branch_id"], True
        placed.append(Draft(kind, fields))
    return placed


_PLACE = frozenset({"id", "parent_id", "branch_id"})


def recount(head: SessionHead, messages: Sequence[int]) -> None:
    """Count the messages of every path again, from the seqs of all messages of a log."""
    branches: list[Branch] = []
    for branch in head.branches:
        path = path_of(head, branch.id)
        count = sum(seq in path for seq in messages)
        branches.append(replace(branch, state=replace(branch.state, message_count=count)))
    head.branches = tuple(branches)
    path = path_of(head)
    head.message_count = sum(seq in path for seq in messages)


def present_state(head: SessionHead) -> PathState:
    """Return the state of the current path."""
    counts = head.counts
    return PathState(
        head.message_count,
        counts.by_role,
        counts.tool_calls,
        counts.first_message_at,
        counts.last_message_at,
        head.system_seqs,
        head.tip_id,
        head.summary,
        head.preview,
    )


def state_at(head: SessionHead, branch_id: str) -> PathState:
    """Return the state at the tip of a branch."""
    if branch_id == head.branch_id:
        return present_state(head)
    branch = branch_of(head, branch_id)
    assert branch is not None
    return branch.state


def _leave(head: SessionHead, seq: int, left_id: str | None) -> None:
    """Close the span of the current branch before `seq`, and keep the state of its path."""
    head.tip_id = head.tip_id or left_id
    if not head.branches:
        spans = ((head.history_from, OPEN_SPAN),)
        head.branches = (Branch(MAIN_BRANCH, head.created_at, spans=spans),)
    branches: list[Branch] = []
    for branch in head.branches:
        if branch.id != head.branch_id:
            branches.append(branch)
            continue
        closed = branch.spans[:-1]
        # Only a span with messages is kept.
        entered = branch.state
        if (head.tip_id, head.message_count) != (entered.tip_id, entered.message_count):
            closed = (*closed, (branch.spans[-1][0], seq - 1))
        branches.append(replace(branch, spans=closed, state=present_state(head)))
    head.branches = tuple(branches)


def _enter(head: SessionHead, branch: Branch, seq: int) -> None:
    opened = replace(branch, spans=(*branch.spans, (seq, OPEN_SPAN)))
    head.branches = tuple(opened if one.id == branch.id else one for one in head.branches)
    state = branch.state
    head.branch_id = branch.id
    head.message_count = state.message_count
    head.counts = replace(
        head.counts,
        by_role=state.by_role,
        tool_calls=state.tool_calls,
        first_message_at=state.first_message_at,
        last_message_at=state.last_message_at,
    )
    head.system_seqs = state.system_seqs
    head.tip_id = state.tip_id
    head.summary = state.summary
    head.preview = state.preview
    # Leaving a tip has closed its calls and requests.
    head.open_calls = []
    head.open_requests = []
    head.settled_requests = []


def _ms(time: str | None) -> int | None:
    return parse_ms(time) if time is not None else None


def known_summaries(head: SessionHead) -> list[SummaryRef]:
    """Return the summaries that count on any path, each once, in the order in which they came."""
    by_seq = {one.seq: one for one in _summaries(head)}
    return [by_seq[seq] for seq in sorted(by_seq)]


def _summaries(head: SessionHead) -> list[SummaryRef]:
    found = [branch.state.summary for branch in head.branches if branch.id != head.branch_id]
    return [one for one in (*found, head.summary) if one is not None]

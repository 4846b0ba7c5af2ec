"""The branch tree: all sessions that were forked from the same root, with merges as edges."""

from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.answers import Tree, TreeNode
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.storage.reports import SessionQuery

TREE_SESSIONS_MAX = 10_000
"""A tree is one answer: a larger one is cut, and says so (`truncated`)."""


async def branch_tree(
    context: Context, registry: SessionRegistry, caller: Caller, head: SessionHead
) -> Tree:
    """Return the whole tree from its root. Deleted sessions and other users' ones are stubs.

    Each session keeps its whole ancestor path, so a deleted one is known from its descendants. The
    stub of another user's session has no title. Nothing here recurses: a chain of forks may be
    deeper than Python's stack.
    """
    path = head.ancestors
    root_id = path[0]["session_id"] if path else head.id
    nodes: dict[str, TreeNode] = {}
    heads = await _family(registry, caller, root_id)
    # The session itself is there too when it was cut off, or deleted since.
    for one in [*heads, head]:
        _place(context, caller, nodes, one)
    tree = nodes[root_id]
    return {**tree, "current": head.id, "truncated": len(heads) >= TREE_SESSIONS_MAX}


async def _family(registry: SessionRegistry, caller: Caller, root_id: str) -> list[SessionHead]:
    if caller.session_id is not None:
        return []  # its credential is for one session
    found: dict[str, SessionHead] = {}
    query = SessionQuery(
        root_id=root_id,
        sort_by="created_at",
        descending=False,
        archived="include",
    )
    async for head in registry.each(caller, query):
        found[head.id] = head
        if len(found) >= TREE_SESSIONS_MAX:
            break
    return list(found.values())


def _place(context: Context, caller: Caller, nodes: dict[str, TreeNode], head: SessionHead) -> None:
    above: TreeNode | None = None
    is_own = caller.is_owner(head.user_id)
    for ancestor in head.ancestors:
        node = nodes.get(ancestor["session_id"])
        if node is None:
            node = nodes[ancestor["session_id"]] = _stub(
                ancestor if is_own else ancestor | {"title": None}
            )
            if above is not None:
                above["branches"].append(node)
        above = node
    node = nodes.get(head.id)
    if node is None:
        node = nodes[head.id] = _stub({"session_id": head.id})
        if above is not None:
            above["branches"].append(node)
    forked_at = head.parent["position"] if head.parent else None
    node |= {
        "title": head.title,
        "state": context.states.state_of(head),
        "created_at": format_ms(head.created_at),
        "forked_at": forked_at,
        "merged_from": [source["session_id"] for source in head.merged_from],
    }


def _stub(ancestor: dict[str, Any]) -> TreeNode:
    return {
        "session_id": ancestor["session_id"],
        "title": ancestor.get("title"),
        "state": "deleted",
        "created_at": None,
        "forked_at": ancestor.get("forked_at"),
        "merged_from": [],
        "branches": [],
    }

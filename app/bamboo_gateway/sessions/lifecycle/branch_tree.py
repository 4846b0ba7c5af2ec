"""The branch tree: a session with all that was forked from the same root, merges as edges."""

from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.pool import SessionPool
from bamboo_gateway.storage.base import SessionQuery

TREE_SESSIONS_MAX = 10_000
"""A tree is one answer: larger ones are cut, and say so."""


async def branch_tree(pool: SessionPool, caller: Caller, head: SessionHead) -> dict[str, Any]:
    """Gives the whole tree from its root; in it, what is deleted or another's is a stub.

    Each session keeps its whole ancestor path, so a deleted one is known by its descendants. A stub
    of another's session has no title. The walk keeps its own stack: a chain of forks may be deeper
    than Python recurses.
    """
    path = head.ancestors
    root_id = path[0]["session_id"] if path else head.id
    nodes: dict[str, dict[str, Any]] = {}
    heads = await _family(pool, caller, root_id)
    # Also when it is among those that were cut off, or has been deleted since.
    for one in [*heads, head]:
        _place(pool, caller, nodes, one)
    tree = nodes[root_id]
    return tree | {"current": head.id, "truncated": len(heads) >= TREE_SESSIONS_MAX}


async def _family(pool: SessionPool, caller: Caller, root_id: str) -> list[SessionHead]:
    if caller.session_id is not None:
        return []  # it came for one session
    found: dict[str, SessionHead] = {}
    query = SessionQuery(
        root_id=root_id,
        sort_by="created_at",
        descending=False,
        archived="include",
    )
    async for head in pool.each(caller, query):
        found[head.id] = head
        if len(found) >= TREE_SESSIONS_MAX:
            break
    return list(found.values())


def _place(
    pool: SessionPool, caller: Caller, nodes: dict[str, dict[str, Any]], head: SessionHead
) -> None:
    above: dict[str, Any] | None = None
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
        "state": pool.state_of(head),
        "created_at": format_ms(head.created_at),
        "forked_at": forked_at,
        "merged_from": [source["session_id"] for source in head.merged_from],
    }


def _stub(ancestor: dict[str, Any]) -> dict[str, Any]:
    return {
        "session_id": ancestor["session_id"],
        "title": ancestor.get("title"),
        "state": "deleted",
        "created_at": None,
        "forked_at": ancestor.get("forked_at"),
        "merged_from": [],
        "branches": [],
    }

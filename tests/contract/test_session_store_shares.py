"""Sessions that are shared, over every store: they are found by whom they are shared with."""

from typing import Any

from bamboo_gateway.domain.clock import format_ms
from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import SessionQuery
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import NOBODY, T0, Writer, committed, message

ENDS = T0 + 60_000


def shared(share_id: str, user_id: str | None, expires_at: int | None = None) -> dict[str, Any]:
    share = {
        "id": share_id,
        "user_id": user_id,
        "created_at": format_ms(T0),
        "expires_at": format_ms(expires_at) if expires_at is not None else None,
        "token_sha256": None if user_id is not None else "0" * 64,
    }
    return {"type": "session_shared", "share": share}


async def with_user(store: SessionStore, user: str, now_ms: int = T0, **more: Any) -> list[str]:
    query = SessionQuery(shared_with=user, shared_at=now_ms, sort_by="created_at", **more)
    page = await store.query(query, NOBODY)
    assert page.total == len(page.heads)
    return sorted(head.id for head in page.heads)


async def test_sessions_are_found_by_whom_they_are_shared_with(
    store: SessionStore, second_path: Reopen
) -> None:
    epoch = store.next_epoch()
    writers = {name: Writer(name, epoch) for name in ("both", "ends", "link", "none")}
    for name, events in {
        "both": [shared("1", "bob"), shared("2", "carol")],
        "ends": [shared("1", "bob", ENDS)],
        "link": [shared("1", None)],
        "none": [message("m")],
    }.items():
        await committed(store, writers[name].commit(*events))
    async for seen in both_paths(store, second_path):
        assert await with_user(seen, "bob") == ["both", "ends"]
        assert await with_user(seen, "bob", ENDS) == ["both"], "a share that has ended"
        assert await with_user(seen, "carol") == ["both"]
        assert await with_user(seen, "carol", user_id="u") == ["both"], "by the owner as well"
        assert await with_user(seen, "carol", user_id="other") == []
        assert await with_user(seen, "nobody") == []
        head = await seen.load("ends")
        assert head == writers["ends"].head
        assert head is not None
        assert [(share.id, share.expires_at) for share in head.shares] == [("1", ENDS)]


async def test_a_list_follows_what_is_shared_and_revoked(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s", store.next_epoch())
    await committed(store, writer.commit(message("m")))
    assert await with_user(store, "bob") == []
    await committed(store, writer.commit(shared("1", "bob"), shared("2", None)))
    assert await with_user(store, "bob") == ["s"]
    # Again with the same user: it takes the place of the first, which says nothing any more.
    await committed(store, writer.commit(shared("3", "bob")))
    await committed(store, writer.commit({"type": "share_revoked", "share_id": "1"}))
    assert await with_user(store, "bob") == ["s"]
    await committed(store, writer.commit({"type": "share_revoked", "share_id": "3"}))
    ended = writer.head.updated_at
    assert await with_user(store, "bob", ended) == []
    await committed(store, writer.commit(shared("4", "carol")))
    await committed(store, writer.commit({"type": "share_revoked", "share_id": "4"}))
    assert await with_user(store, "carol", 0) == ["s"]
    await committed(store, writer.commit({"type": "share_revoked", "share_id": "4"}))
    async for seen in both_paths(store, second_path):
        assert await with_user(seen, "bob", ended) == []
        assert await with_user(seen, "bob", 0) == ["s"], "an erasure asks for ended ones too"
        assert await with_user(seen, "carol", 0) == [], "revoked again: forgotten"
        head = await seen.load("s")
        assert head is not None
        assert [share.id for share in head.shares] == ["2", "3"]

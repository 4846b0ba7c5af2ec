"""Sessions of earlier versions have a message id more than once; all of it stays readable."""

import json
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import InvalidId, MessageExists, NotFound
from bamboo_gateway.sessions.commands import MessagePage, NewMessage
from bamboo_gateway.sessions.lifecycle.export import ExportOptions
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from tests.sessions.lifecycle.talk import ids, say, talk, texts
from tests.storage.writing import Writer, committed, message
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway

SAID = [("m1", "one"), ("m2", "two"), ("m1", "three"), ("m1", "four"), ("m3", "five")]
WORDS = [text for _, text in SAID]


async def doubled(gate: Gateway, session_id: str = "s", said: list[tuple[str, str]] = SAID) -> None:
    """Write a session past the gateway, which refuses such messages now."""
    writer = Writer(session_id, gate.store.next_epoch(), gate.clock.now_ms())
    for message_id, text in said:
        event = message(message_id, text)
        event["message_id"] = message_id
        # The message is an event's last member.
        event["message"] = event.pop("message")
        await committed(gate.store.inner, writer.commit(event))


async def page(gate: Gateway, **asked: Any) -> MessagePage:
    return await gate.manager.messages(ME, "s", **asked)


def contents(found: MessagePage) -> list[str]:
    return [json.loads(one)["content"] for one in found.messages]


async def paged(gate: Gateway, limit: int, *, descending: bool, by_id: bool = False) -> list[str]:
    """Read everything page by page, as clients do."""
    said: list[str] = []
    asked: dict[str, Any] = {}
    with anyio.fail_after(DEADLINE_SECONDS):
        while True:
            found = await page(gate, limit=limit, descending=descending, **asked)
            said += contents(found)
            if not found.has_more:
                assert found.next_cursor is None
                return said
            cursor = json.loads(found.messages[-1])["id"] if by_id else found.next_cursor
            asked = {"before" if descending else "after": cursor}


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
async def test_pages_show_every_message_once_from_either_end(limit: int, gate: Gateway) -> None:
    await doubled(gate)
    assert await paged(gate, limit, descending=False) == WORDS
    assert await paged(gate, limit, descending=True) == WORDS[::-1]


async def test_the_cursor_names_one_place_also_where_an_id_stands_twice(gate: Gateway) -> None:
    await doubled(gate)
    assert (await page(gate, limit=1)).next_cursor == "m1@2"
    assert (await page(gate, limit=2)).next_cursor == "m2@3"
    assert (await page(gate, limit=2, descending=True)).next_cursor == "m1@5"


@pytest.mark.parametrize("descending", [False, True])
async def test_who_names_the_last_message_of_a_page_always_comes_to_the_end(
    descending: bool, gate: Gateway
) -> None:
    await doubled(gate)
    said = await paged(gate, 1, descending=descending, by_id=True)
    assert len(said) == len(set(said))


async def test_an_id_alone_means_the_last_to_go_on_after_and_the_first_to_go_before(
    gate: Gateway,
) -> None:
    await doubled(gate)
    assert contents(await page(gate, after="m1")) == ["five"]
    assert contents(await page(gate, before="m1")) == []
    assert contents(await page(gate, after="m1@2", before="m1@5")) == ["two", "three"]


@pytest.mark.parametrize("cursor", ["m1@3", "m2@2", "m1@99", "none@2", "none"])
async def test_a_cursor_of_another_message_is_refused(cursor: str, gate: Gateway) -> None:
    await doubled(gate)
    for where in ("before", "after"):
        with pytest.raises(NotFound) as caught:
            await page(gate, **{where: cursor})
        assert caught.value.code == "message-not-found"


@pytest.mark.parametrize(
    "cursor", ["m1@", "m1@x", "@2", "m1@2@2", "m1@-1", "m1@" + "9" * 16, "a\n"]
)
async def test_what_is_no_cursor_is_an_invalid_id(cursor: str, gate: Gateway) -> None:
    await doubled(gate)
    with pytest.raises(InvalidId):
        await page(gate, after=cursor)


async def test_a_cursor_from_before_a_merge_that_replaced_everything_is_refused(
    gate: Gateway,
) -> None:
    """R4: the page that it leads on from is not part of the history any more."""
    first, _ = await talk(gate, "s", "a", "b")
    await talk(gate, "other", "c")
    await gate.manager.merge(ME, "s", Merge("other", "replace"))
    for where in ("before", "after"):
        with pytest.raises(NotFound):
            await page(gate, **{where: first})


async def test_the_id_is_not_taken_a_further_time(gate: Gateway) -> None:
    await doubled(gate)
    with pytest.raises(MessageExists):
        await say(gate, "s", NewMessage("user", "six", id="m1"))
    assert await texts(gate, "s") == WORDS


@pytest.mark.parametrize("format_name", ["json", "yaml"])
async def test_its_own_export_comes_back_with_each_id_once(format_name: Any, gate: Gateway) -> None:
    # The last one says the same as one before it: all the same it was said.
    await doubled(gate, said=[*SAID, ("m1", "one")])
    export = await gate.manager.export(ME, "s", ExportOptions(format_name))
    document = b"".join([part async for part in export.chunks])
    again = []
    for _ in range(2):
        made = (await gate.manager.import_document(ME, document)).answer
        assert await texts(gate, made["id"]) == [*WORDS, "one"]
        again.append(await ids(gate, made["id"]))
        [note] = made["notes"]
        assert note["place"] == "messages"
        assert "m1" in note["what"]
    assert again[0][:2] == ["m1", "m2"]
    assert len(set(again[0])) == 6
    # They are derived: the same document is the same session each time.
    assert again[0] == again[1]


async def test_a_fork_at_the_id_ends_with_the_last_such_message(gate: Gateway) -> None:
    await doubled(gate)
    await gate.manager.fork(ME, "s", Fork(message_id="m1", new_id="child"))
    assert await texts(gate, "child") == WORDS[:4]
    await gate.manager.fork(ME, "s", Fork(new_id="whole"))
    assert await texts(gate, "whole") == WORDS


@pytest.mark.parametrize("strategy", ["append", "interleave"])
async def test_a_merge_drops_no_other_message_of_the_same_id(strategy: Any, gate: Gateway) -> None:
    await talk(gate, "target")
    await say(gate, "target", NewMessage("user", "ours", id="m1"))
    await talk(gate, "source")
    await say(gate, "source", NewMessage("user", "theirs", id="m1"), NewMessage("user", "more"))
    for _ in range(2):
        await gate.manager.merge(ME, "target", Merge("source", strategy))
        assert sorted(await texts(gate, "target")) == ["more", "ours", "theirs"]
        assert len(set(await ids(gate, "target"))) == 3


@pytest.mark.parametrize("strategy", ["append", "interleave", "replace"])
async def test_a_merge_of_doubled_ids_gives_each_message_one_of_its_own(
    strategy: Any, gate: Gateway
) -> None:
    await doubled(gate)
    await talk(gate, "target")
    await say(gate, "target", NewMessage("user", "ours", id="m1"))
    for _ in range(2):
        await gate.manager.merge(ME, "target", Merge("s", strategy))
        ours = [] if strategy == "replace" else ["ours"]
        assert sorted(await texts(gate, "target")) == sorted([*ours, *WORDS])
        assert len(set(await ids(gate, "target"))) == len(WORDS) + len(ours)


@pytest.mark.parametrize("strategy", ["append", "interleave"])
async def test_what_doubled_sessions_share_is_not_said_again(strategy: Any, gate: Gateway) -> None:
    await doubled(gate)
    await gate.manager.fork(ME, "s", Fork(new_id="child"))
    await say(gate, "child", NewMessage("user", "six"))
    for _ in range(2):
        await gate.manager.merge(ME, "s", Merge("child", strategy))
        assert await texts(gate, "s") == [*WORDS, "six"]


async def test_a_merge_that_replaces_by_other_messages_of_the_same_ids_does_so(
    gate: Gateway,
) -> None:
    await talk(gate, "target")
    await say(gate, "target", NewMessage("user", "ours", id="m1"))
    await talk(gate, "source")
    await say(gate, "source", NewMessage("user", "theirs", id="m1"))
    await gate.manager.merge(ME, "target", Merge("source", "replace"))
    assert await texts(gate, "target") == ["theirs"]

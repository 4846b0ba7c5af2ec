"""A process that dies at any moment loses nothing, and tells nothing out of order."""

import json

import pytest

from bamboo_gateway.domain.callers import GATEWAY
from bamboo_gateway.sessions.webhooks import feed
from bamboo_gateway.webhooks.base import Attempt
from tests.sessions.webhooks.hooked import (
    ME,
    OK,
    URL,
    Hooked,
    Sent,
    WatchedStore,
    failed,
    hooked,
)
from tests.support.clocks import FakeClock
from tests.support.gateways import quiet


class Moments:
    """What a process would leave behind at each of its writes, and what it had sent by then."""

    def __init__(self, hooks: Hooked) -> None:
        self._hooks = hooks
        self.left: list[tuple[WatchedStore, int, int]] = []
        hooks.store.on_write = self.take

    def take(self) -> None:
        hooks = self._hooks
        self.left.append((hooks.store.twin(), len(hooks.sender.sent), hooks.clock.ms))


async def logged(store: WatchedStore, session_id: str) -> list[str]:
    """The runs that ended in a session, by its log."""
    head = await store.load(session_id)
    if head is None:
        return []
    found = await store.find(session_id, head.epoch, "run")
    ends = [one.body for one in found if one.type in {"complete", "error", "cancelled"}]
    return [json.loads(body)["run_id"] for body in ends]


async def test_after_a_crash_at_any_write_everything_is_told_once_more_at_most() -> None:
    async with hooked() as hooks:
        await hooks.hook()
        await hooks.hook("run.ended", url=URL + "other")
        moments = Moments(hooks)
        tries = 0

        def flaky(_: Sent) -> Attempt:
            nonlocal tries
            tries += 1
            return failed() if tries % 3 == 0 else OK

        hooks.sender.answer = flaky
        for number in range(6):
            await hooks.run("a")
            await hooks.run("b")
            if number == 3:
                await hooks.manager.delete_session(ME, "b")
            await hooks.pass_time(400)
        hooks.sender.answer = lambda _: OK
        await hooks.pass_time(86_400)
        await hooks.settles()
        before = list(hooks.sender.sent)
    assert len(moments.left) > 20
    for place, (store, sent, now_ms) in enumerate(moments.left):
        # It may die at once, or after all that it sent before its next write.
        later = moments.left[place + 1][1] if place + 1 < len(moments.left) else len(before)
        async with hooked(store, clock=FakeClock(now_ms + 86_400_000)) as after:
            await after.settles()
            expected = await logged(store, "a")
            for upto in {sent, later}:
                told = before[:upto] + after.sender.sent
                for url in (URL, URL + "other"):
                    mine = after.sender.by_session([one for one in told if one.url == url])
                    runs = [one.data["run_id"] for one in mine["a"] if one.type == "run.ended"]
                    assert runs == expected[: len(runs)] + runs[len(expected) :]
                    assert set(expected) <= set(runs)


async def test_a_crash_between_acknowledgement_and_write_repeats_the_same_id() -> None:
    async with hooked() as hooks:
        await hooks.hook("run.ended")
        left: list[WatchedStore] = []

        def dies(_: Sent) -> Attempt:
            left.append(hooks.store.twin())
            return OK

        hooks.sender.answer = dies
        run_id = await hooks.run()
        await hooks.settles()
    async with hooked(left[0], clock=FakeClock(hooks.clock.ms)) as after:
        await after.settles()
        assert [one.about for one in after.sender.sent] == [("run.ended", run_id)]
        assert after.sender.sent[0].id == hooks.sender.sent[0].id


async def test_what_happened_while_nobody_looked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that the next start closes, and those that ended just before the crash."""
    async with hooked() as hooks:
        await hooks.hook("run.ended")
        await hooks.looked()
        with monkeypatch.context() as patch:
            patch.setattr(feed.Feed, "look", lambda _: _never())
            ended = await hooks.run("s")
            chat = await hooks.run("t")
            left = hooks.store.twin()
    async with hooked(left, clock=FakeClock(hooks.clock.ms)) as after:
        await after.settles()
        assert sorted(one.data["run_id"] for one in after.sender.sent) == [ended, chat]


async def _never() -> bool:
    return False


@pytest.mark.parametrize("page", [1, 2, 200])
async def test_changes_that_are_lost_are_found_by_looking_at_all_sessions(
    monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr(feed, "_SCAN_PAGE", page)
    async with hooked() as hooks:
        await hooks.run("quiet")
        hooks.clock.advance(10)
        await hooks.hook()
        first = {name: await hooks.run(name) for name in ("kept", "gone", "grows")}
        await hooks.settles()
        left = hooks.store.twin()
    told = [one.about for one in hooks.sender.sent]
    assert len(told) == 6
    clock = FakeClock(hooks.clock.ms + 1000)
    async with hooked(left, clock=clock) as after:
        # As after a restore: numbers of another feed, and nobody looked meanwhile.
        with monkeypatch.context() as patch:
            patch.setattr(feed.Feed, "look", lambda _: _never())
            new = await after.run("grows", run_id="later")
            born = await after.run("born", run_id="newborn")
            await after.manager.delete_session(GATEWAY, "gone")
            after.store._feed = "another"
            after.store._changes.clear()
        await after.settles()
        assert sorted(one.about for one in after.sender.sent) == sorted(
            [
                ("run.ended", new),
                ("session.created", "born"),
                ("run.ended", born),
                ("session.deleted", "gone"),
            ]
        )
        after.sender.sent.clear()
        newest = await after.run("kept", run_id="newest")
        await after.settles()
        assert [one.about for one in after.sender.sent] == [("run.ended", newest)]
    assert first


async def test_a_log_with_a_new_epoch_goes_on_where_it_was(hooks: Hooked) -> None:
    """As `doctor` and a restore give them."""
    await hooks.hook()
    await hooks.run("s")
    await hooks.settles()
    session = hooks.store._sessions["s"]
    await quiet()
    session.head.epoch += 1
    hooks.store._changed("s")
    await hooks.looked()
    assert len(hooks.sender.sent) == 2

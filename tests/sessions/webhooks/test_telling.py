"""What webhooks are told, how often, and in which order."""

import anyio
import pytest

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import StorageFull
from bamboo_gateway.domain.events import Cancelled, Complete, Failed, InputRequired
from bamboo_gateway.domain.limits import WEBHOOK_IN_FLIGHT_MAX, WEBHOOK_NOTICES_MAX
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.webhooks import outbox
from bamboo_gateway.webhooks.base import Attempt
from tests.sessions.webhooks.hooked import (
    ME,
    OK,
    URL,
    Hooked,
    Sent,
    failed,
    hooked,
)
from tests.support.agents import RETURN
from tests.support.clocks import FakeClock
from tests.support.gateways import DEADLINE_SECONDS, eventually, quiet

ALICE = Caller("user:alice", "alice", frozenset({"read", "write"}))


async def test_a_session_is_told_from_its_creation_to_its_deletion(hooks: Hooked) -> None:
    await hooks.hook()
    run_id = await hooks.run("s", "alice")
    await hooks.settles()
    await hooks.manager.delete_session(ME, "s")
    told = await hooks.tells(3)
    assert told == [("session.created", "s"), ("run.ended", run_id), ("session.deleted", "s")]
    created, ended, deleted = [one.data for one in hooks.sender.sent]
    assert ended["status"] == "completed"
    assert ended["finish_reason"] == "stop"
    assert ended["url"] == "https://chat.example.com/s"
    assert created["position"].endswith("-1")
    assert {created["user_id"], ended["user_id"], deleted["user_id"]} == {"alice"}
    assert deleted["url"] is None


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (Complete(finish_reason="length"), "completed", None),
        (Failed("no", "upstream_error"), "failed", "upstream_error"),
        (Cancelled(), "cancelled", None),
    ],
)
async def test_every_end_of_a_run_is_told(
    hooks: Hooked, end: object, status: str, code: str | None
) -> None:
    await hooks.hook("run.ended")
    await hooks.run("s", None, end)
    await hooks.settles()
    (one,) = hooks.sender.sent
    assert (one.data["status"], one.data["error_code"]) == (status, code)


async def test_a_run_that_asks_is_told_as_ended_and_as_asking(hooks: Hooked) -> None:
    await hooks.hook("run.ended", "input.required")
    asks = InputRequired("May I delete the file?", "question", request_id="q-1")
    run_id = await hooks.run("s", None, asks, RETURN)
    assert await hooks.settles() == [("run.ended", run_id), ("input.required", run_id)]
    asked = hooks.sender.sent[1].data
    assert asked["status"] == "needs_input"
    assert asked["requests"] == [{"request_id": "q-1", "kind": "question"}]
    assert "delete the file" not in str(hooks.sender.sent)
    assert len({one.id for one in hooks.sender.sent}) == 2


async def test_what_was_said_is_not_told(hooks: Hooked) -> None:
    await hooks.hook()
    await hooks.run()
    await hooks.settles()
    assert all("hi" not in str(one.data) for one in hooks.sender.sent)


async def test_only_events_since_the_creation_of_a_webhook_are_told(hooks: Hooked) -> None:
    await hooks.run("old")
    hooks.clock.advance(1)
    await hooks.hook()
    new = await hooks.run("old")
    assert await hooks.settles() == [("run.ended", new)]
    hooks.clock.advance(1)
    later = await hooks.hook(url=URL + "later")
    newer = await hooks.run("old")
    await hooks.settles()
    assert [one.about for one in hooks.sender.sent if one.url.endswith("later")] == [
        ("run.ended", newer)
    ]
    await hooks.manager.delete_webhook(ME, later)


async def test_two_webhooks_are_told_what_each_asked_for(hooks: Hooked) -> None:
    await hooks.hook("run.ended", url=URL + "a", user_id="alice")
    await hooks.hook("session.created", url=URL + "b")
    runs = {user: await hooks.run(user, user) for user in ("alice", "bob")}
    await hooks.settles()
    told = {(one.url[-1], *one.about) for one in hooks.sender.sent}
    assert told == {
        ("a", "run.ended", runs["alice"]),
        ("b", "session.created", "alice"),
        ("b", "session.created", "bob"),
    }


async def test_a_users_webhook_is_told_of_that_users_sessions_alone(hooks: Hooked) -> None:
    await hooks.hook(caller=ALICE)
    mine = await hooks.run("mine", "alice")
    await hooks.run("other", "bob")
    await hooks.run("nobodys")
    assert await hooks.settles() == [("session.created", "mine"), ("run.ended", mine)]


async def test_a_later_event_of_a_session_waits_for_the_earlier_one(hooks: Hooked) -> None:
    await hooks.hook("run.ended")
    refused = ["r0001"]
    hooks.sender.answer = lambda one: failed() if one.data["run_id"] in refused else OK
    await hooks.run("slow")
    await hooks.tells(1)
    second = await hooks.run("slow")
    other = await hooks.run("quick")
    await hooks.looked()
    assert hooks.told() == [("run.ended", "r0001"), ("run.ended", other)]
    refused.clear()
    await hooks.pass_time(6)
    await hooks.settles()
    assert hooks.told()[2:] == [("run.ended", "r0001"), ("run.ended", second)]
    assert hooks.sender.sent[0].id == hooks.sender.sent[2].id


async def test_repeats_come_later_and_later(hooks: Hooked) -> None:
    webhook = await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed()
    await hooks.run()
    await hooks.tells(1)
    for count, wait in enumerate((5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000), 1):
        await hooks.pass_time(wait * 0.99)
        assert len(hooks.sender.sent) == count
        await hooks.pass_time(wait * 0.22)
        await hooks.tells(count + 1)
    assert len({one.id for one in hooks.sender.sent}) == 1
    page = await hooks.manager.webhook_deliveries(ME, webhook, None, 100)
    assert [one["attempt"] for one in page["deliveries"]] == list(range(9, 0, -1))


async def test_a_receiver_may_ask_to_wait(hooks: Hooked) -> None:
    await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed(503, retry_after=1000)
    await hooks.run()
    await hooks.tells(1)
    await hooks.pass_time(900)
    assert len(hooks.sender.sent) == 1
    await hooks.pass_time(101)
    await hooks.tells(2)


async def test_a_clock_that_is_set_back_or_forward_delays_and_loses_nothing(hooks: Hooked) -> None:
    await hooks.run("old")
    hooks.clock.advance(60)
    await hooks.hook("run.ended")
    await hooks.looked()
    hooks.clock.step_back(86_400)
    await hooks.looked()
    await eventually(
        lambda: all(one.webhook.since < hooks.clock.ms for one in hooks.couriers.values())
    )
    hooks.sender.answer = lambda _: failed()
    run_id = await hooks.run("old")
    await hooks.tells(1)
    assert hooks.told()[-1][1] in {"r0001", run_id}
    await quiet()
    hooks.sender.answer = lambda _: OK
    hooks.clock.step_back(10 * 86_400)
    await hooks.pass_time(6)
    await eventually(lambda: ("run.ended", run_id) in hooks.told())
    hooks.clock.step_back(-20 * 86_400)
    later = await hooks.run("old")
    await hooks.settles()
    assert ("run.ended", later) in hooks.told()


async def test_a_receiver_that_is_back_gets_all_that_waited_soon(hooks: Hooked) -> None:
    await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed(None)
    runs = [await hooks.run(f"s{number}") for number in range(20)]
    await hooks.tells(20)
    for _ in range(3):
        await hooks.pass_time(40_000)
    hooks.sender.answer = lambda _: OK
    # The newest session finds it out.
    runs.append(await hooks.run("new"))
    await hooks.tells(1)
    await eventually(lambda: hooks.told()[-1] == ("run.ended", runs[-1]))
    await hooks.pass_time(61)
    await hooks.settles()


async def test_a_receiver_that_is_down_for_a_day_loses_nothing(hooks: Hooked) -> None:
    await hooks.hook()
    hooks.sender.answer = lambda _: failed(None)
    for _ in range(24):
        await hooks.run("a")
        await hooks.run("b")
        await hooks.pass_time(3600)
    hooks.sender.sent.clear()
    hooks.sender.answer = lambda _: OK
    for _ in range(3):
        await hooks.pass_time(86_400)
    await hooks.settles()
    for session_id, first in (("a", 1), ("b", 2)):
        told = [one.about for one in hooks.sender.by_session()[session_id]]
        assert told == [
            ("session.created", session_id),
            *(("run.ended", f"r{number:04d}") for number in range(first, 49, 2)),
        ]


async def test_more_than_an_entry_holds_is_read_from_the_log(hooks: Hooked) -> None:
    await hooks.hook()
    hooks.sender.answer = lambda _: failed()
    runs = [await hooks.run("s")]
    await hooks.tells(1)
    runs += [await hooks.run("s") for _ in range(3 * WEBHOOK_NOTICES_MAX)]
    await hooks.looked()
    (courier,) = hooks.couriers.values()
    assert courier.outbox.entries["s"].more is not None
    assert len(courier.outbox.entries["s"].notices) < 3 * WEBHOOK_NOTICES_MAX
    hooks.sender.sent.clear()
    hooks.sender.answer = lambda _: OK
    await hooks.pass_time(6)
    told = await hooks.settles()
    assert told == [("session.created", "s"), *(("run.ended", run_id) for run_id in runs)]


async def test_more_sessions_than_memory_holds_wait_in_the_store(
    hooks: Hooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "WEBHOOK_ENTRIES_IN_MEMORY", 5)
    await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed()
    for number in range(20):
        await hooks.run(f"s{number:02d}")
    await hooks.looked()
    (courier,) = hooks.couriers.values()
    assert len(courier.outbox.entries) == 5
    for number in range(20):
        await hooks.run(f"s{number:02d}")
    await hooks.looked()
    hooks.sender.sent.clear()
    hooks.sender.answer = lambda _: OK
    await hooks.pass_time(400)
    await hooks.settles()
    told = hooks.sender.by_session()
    assert [len(told[f"s{number:02d}"]) for number in range(20)] == [2] * 20
    for sent in told.values():
        assert [one.data["position"] for one in sent] == sorted(
            (one.data["position"] for one in sent), key=lambda at: int(at.split("-")[1])
        )


async def test_what_a_deleted_session_had_to_tell_is_still_told(hooks: Hooked) -> None:
    await hooks.hook()
    hooks.sender.answer = lambda _: failed()
    runs = [await hooks.run("s") for _ in range(3)]
    await hooks.looked()
    await hooks.manager.delete_session(ME, "s")
    await hooks.looked()
    hooks.sender.sent.clear()
    hooks.sender.answer = lambda _: OK
    await hooks.pass_time(400)
    told = await hooks.settles()
    assert told == [
        ("session.created", "s"),
        *(("run.ended", run_id) for run_id in runs),
        ("session.deleted", "s"),
    ]


async def test_what_ended_right_before_the_deletion_is_told(hooks: Hooked) -> None:
    await hooks.hook()
    runs = []
    for number in range(5):
        runs.append((f"s{number}", await hooks.run(f"s{number}"), await hooks.run(f"s{number}")))
        await hooks.manager.delete_session(ME, f"s{number}")
    await hooks.settles()
    for session_id, *ended in runs:
        assert [one.about for one in hooks.sender.by_session()[session_id]] == [
            ("session.created", session_id),
            *(("run.ended", run_id) for run_id in ended),
            ("session.deleted", session_id),
        ]


async def test_a_full_disk_keeps_nobody_from_deleting(hooks: Hooked) -> None:
    await hooks.hook()
    await hooks.run("s")
    hooks.store.failing = StorageFull("full")
    await hooks.manager.delete_session(ME, "s")
    hooks.store.failing = None
    await eventually(lambda: hooks.told()[-1:] == [("session.deleted", "s")])


async def test_an_id_that_is_given_again_is_another_session(hooks: Hooked) -> None:
    await hooks.hook()
    await hooks.run("s", run_id="first")
    await hooks.settles()
    hooks.clock.advance(1)
    await hooks.manager.delete_session(ME, "s")
    await hooks.run("s", run_id="second")
    told = await hooks.settles()
    assert told == [
        ("session.created", "s"),
        ("run.ended", "first"),
        ("session.deleted", "s"),
        ("session.created", "s"),
        ("run.ended", "second"),
    ]
    assert len({one.id for one in hooks.sender.sent}) == 5


async def test_forks_and_imports_are_new_sessions_without_ended_runs(hooks: Hooked) -> None:
    await hooks.run("s")
    hooks.clock.advance(1)
    await hooks.hook()
    fork = (await hooks.manager.fork(ME, "s", Fork(new_id="fork"))).answer
    assert await hooks.settles() == [("session.created", fork["id"])]


async def test_requests_to_one_receiver_are_few_at_a_time(hooks: Hooked) -> None:
    await hooks.hook("run.ended")
    release, at_a_time, most = anyio.Event(), 0, 0

    async def slow(_: Sent) -> Attempt:
        nonlocal at_a_time, most
        at_a_time += 1
        most = max(most, at_a_time)
        await release.wait()
        at_a_time -= 1
        return OK

    hooks.sender.answer = slow
    for number in range(3 * WEBHOOK_IN_FLIGHT_MAX):
        await hooks.run(f"s{number}")
    await hooks.tells(WEBHOOK_IN_FLIGHT_MAX)
    await quiet()
    assert len(hooks.sender.sent) == WEBHOOK_IN_FLIGHT_MAX
    release.set()
    await hooks.settles()
    assert most == WEBHOOK_IN_FLIGHT_MAX


async def test_410_disables_a_webhook_and_enabling_it_sends_what_waited(hooks: Hooked) -> None:
    webhook = await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed(410)
    first = await hooks.run("s")
    await eventually(lambda: not hooks.couriers[webhook].webhook.enabled)
    view = await hooks.manager.webhook(ME, webhook)
    assert view["disabled_reason"] == "gone"
    await hooks.run("s")
    await hooks.looked()
    await hooks.pass_time(86_400)
    assert len(hooks.sender.sent) == 1
    hooks.sender.answer = lambda _: OK
    await hooks.manager.change_webhook(ME, webhook, {"enabled": True})
    third = await hooks.run("s")
    await hooks.settles()
    # The second one happened while it was disabled.
    assert hooks.told() == [("run.ended", first), ("run.ended", first), ("run.ended", third)]


async def test_a_webhook_that_fails_for_days_is_disabled(hooks: Hooked) -> None:
    webhook = await hooks.hook("run.ended")
    hooks.sender.answer = lambda _: failed()
    await hooks.run("s")
    for _ in range(20):
        await hooks.tells(1)
        await hooks.pass_time(43_200)
        if not hooks.couriers[webhook].webhook.enabled:
            break
    await eventually(lambda: not hooks.couriers[webhook].webhook.enabled)
    assert (await hooks.manager.webhook(ME, webhook))["disabled_reason"] == "failing"
    stats = await hooks.manager.stats()
    assert stats["webhooks_disabled_total"]["failing",] == 1
    checks = (await hooks.manager.diagnostics(ME))["checks"]
    (check,) = [one for one in checks if one["name"] == "webhooks"]
    assert check["status"] == "warn"
    assert webhook in check["seen"]


async def test_a_message_that_nobody_takes_is_given_up_and_the_session_goes_on(
    hooks: Hooked,
) -> None:
    webhook = await hooks.hook("run.ended")
    hooks.sender.answer = lambda one: failed() if one.data["run_id"] == "poison" else OK
    await hooks.run("s", run_id="poison")
    await hooks.tells(1)
    for _ in range(16):
        await hooks.run("s")
        await hooks.run("other")
        await hooks.pass_time(43_200)
    await eventually(lambda: any(one.about == ("run.ended", "r0002") for one in hooks.sender.sent))
    assert hooks.couriers[webhook].webhook.enabled
    assert (await hooks.manager.stats())["webhook_given_up_total"] == 1
    page = await hooks.manager.webhook_deliveries(ME, webhook, None, 1000)
    assert [one["run_id"] for one in page["deliveries"] if one["error"] == "given-up"] == ["poison"]


async def test_a_full_disk_delays_and_loses_nothing(hooks: Hooked) -> None:
    await hooks.hook()
    runs = [await hooks.run("s")]
    await hooks.settles()
    hooks.store.failing = StorageFull("full")
    runs += [await hooks.run("s") for _ in range(3)]
    await quiet()
    hooks.store.failing = None
    await hooks.settles()
    told = [one.about for one in hooks.sender.by_session()["s"]]
    assert told == [("session.created", "s"), *(("run.ended", run_id) for run_id in runs)]


async def test_a_full_disk_after_the_acknowledgement_repeats_under_the_same_id(
    hooks: Hooked,
) -> None:
    await hooks.hook("run.ended")

    def fills(_: Sent) -> Attempt:
        hooks.store.failing = StorageFull("full")
        return OK

    hooks.sender.answer = fills
    await hooks.run("s")
    await hooks.tells(1)
    await quiet()
    hooks.sender.answer = lambda _: OK
    hooks.store.failing = None
    left = hooks.store.twin()
    async with hooked(left, clock=FakeClock(hooks.clock.ms)) as after:
        await after.settles()
        assert after.sender.sent == [] or after.sender.sent[0].id == hooks.sender.sent[0].id


async def test_nothing_is_asked_or_written_without_a_webhook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = None
    async with hooked() as hooks:
        store = hooks.store
        calls: list[str] = []
        for name in ("changes", "last_change", "write_values", "values", "value"):
            monkeypatch.setattr(store, name, lambda *_, name=name, **__: calls.append(name))
        await hooks.run("s")
        await quiet()
        assert calls == []


async def test_the_last_webhook_takes_everything_with_it(hooks: Hooked) -> None:
    webhook = await hooks.hook()
    hooks.sender.answer = lambda _: failed()
    await hooks.run("s")
    await hooks.tells(1)
    await hooks.manager.delete_webhook(ME, webhook)
    again = await hooks.hook()
    kinds = {kind for kind, _ in hooks.store._values}
    assert kinds == {"webhook", "webhook-cursor"}
    await hooks.manager.delete_webhook(ME, again)


async def test_a_webhook_that_is_deleted_while_a_request_is_on_its_way_leaves_nothing(
    hooks: Hooked,
) -> None:
    webhook = await hooks.hook("run.ended")
    await hooks.hook("run.ended", url=URL + "other")
    release = anyio.Event()

    async def held(_: Sent) -> Attempt:
        await release.wait()
        return OK

    hooks.sender.answer = held
    await hooks.run("s")
    await hooks.tells(2)
    await hooks.manager.delete_webhook(ME, webhook)
    release.set()
    await hooks.settles()
    assert [key for _, key in hooks.store._values if key.startswith(webhook)] == []


async def test_what_a_crash_left_of_a_deleted_webhook_goes_at_the_next_start() -> None:
    async with hooked() as hooks:
        webhook = await hooks.hook("run.ended")
        await hooks.hook("run.ended", url=URL + "other")
        hooks.sender.answer = lambda _: failed()
        await hooks.run("s")
        await hooks.tells(2)
        await quiet()
        left = hooks.store.twin()
        del left._values["webhook", webhook]
    async with hooked(left):
        assert [key for _, key in left._values if key.startswith(webhook)] == []
        assert [kind for kind, _ in left._values if kind == "webhook-due"] == ["webhook-due"]


async def test_erasing_a_user_leaves_no_word_of_the_user_but_that_the_sessions_are_gone(
    hooks: Hooked,
) -> None:
    await hooks.run("quiet", "alice")
    hooks.clock.advance(1)
    operators = await hooks.hook(url=URL + "all")
    theirs = await hooks.hook(caller=ALICE)
    await hooks.run("a", "alice")
    await hooks.run("b", "bob")
    await hooks.settles()
    hooks.sender.answer = lambda one: failed() if one.data["session_id"] == "a" else OK
    await hooks.run("a", "alice")
    await hooks.looked()
    dry = await hooks.manager.erase_user("alice", dry_run=True)
    assert dry["webhooks"] == 1
    receipt = await hooks.manager.erase_user("alice")
    assert receipt["webhooks"] == 1
    hooks.sender.answer = lambda _: OK
    erased = len(hooks.sender.sent)
    await hooks.pass_time(10)
    deleted = {("session.deleted", "a"), ("session.deleted", "quiet")}
    assert {one for one in await hooks.settles() if one[0] == "session.deleted"} == deleted
    assert {kind for kind, _ in hooks.told()[erased:]} == {"session.deleted"}
    assert theirs not in hooks.couriers
    known = deleted | {("run.ended", "b"), ("session.created", "b")}
    about: set[tuple[str, str | None]] = set()
    with anyio.fail_after(DEADLINE_SECONDS):
        while not deleted <= about:  # a delivery is noted behind its request
            await quiet()
            page = await hooks.manager.webhook_deliveries(ME, operators, None, 100)
            about = {(one["type"], one["session_id"]) for one in page["deliveries"]}
    assert about == known


async def test_a_drain_ends_what_is_on_its_way_and_the_next_start_repeats_it() -> None:
    async with hooked(drain_timeout_seconds=0) as hooks:
        await hooks.hook("run.ended")

        async def never(_: Sent) -> Attempt:
            await anyio.sleep_forever()
            raise AssertionError

        hooks.sender.answer = never
        await hooks.run("s")
        (sent,) = [one.id for one in hooks.sender.sent] or [
            (await hooks.tells(1), hooks.sender.sent[0].id)[1]
        ]
        left = hooks.store
    async with hooked(left, clock=FakeClock(hooks.clock.ms)) as after:
        await after.settles()
        assert [one.id for one in after.sender.sent] == [sent]


async def test_a_drain_waits_for_what_is_on_its_way() -> None:
    async with hooked(drain_timeout_seconds=60) as hooks:
        await hooks.hook("run.ended")
        began = anyio.Event()

        async def slow(_: Sent) -> Attempt:
            began.set()
            await quiet()
            return OK

        hooks.sender.answer = slow
        await hooks.run("s")
        await began.wait()
    assert not [key for kind, key in hooks.store._values if kind == "webhook-due"]

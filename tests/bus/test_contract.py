"""Every bus does what `bus.base` says; the fake of the other tests does, too."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from bamboo_gateway.bus.base import NOTICE_BYTES_MAX, Notice
from bamboo_gateway.bus.memory import Exchange, MemoryBus
from tests.bus.ends import End, notice, redis_end
from tests.support.waiting import until_true

Ends = tuple[End, End, End]


@pytest.fixture(params=["memory", "redis"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    """Three gateways, each with its end."""
    make: Callable[[], End]
    if request.param == "memory":
        exchange = Exchange()

        def make() -> End:
            return End(MemoryBus(exchange))
    else:
        url = request.getfixturevalue("redis_server").url

        def make() -> End:
            return redis_end(url)

    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(make()) for _ in range(3)]
        one, two, three = [await end.is_up() for end in made]
        yield one, two, three


async def test_a_notice_arrives_where_its_session_is_watched(ends: Ends) -> None:
    one, two, three = ends
    await two.watches("s")
    await three.watches("other")
    sent = notice("s", 2, b'{"a":1}', b"", b"\x00\xff")
    one.bus.publish(sent)
    await until_true(lambda: two.noticed == [sent])
    one.bus.publish(notice("other"))
    await until_true(lambda: three.noticed == [notice("other")])
    assert two.noticed == [sent]


async def test_a_publisher_does_not_receive_its_own_notice(ends: Ends) -> None:
    one, two, _ = ends
    await one.watches("s")
    await two.watches("s")
    one.bus.publish(notice(version=2))
    two.bus.publish(notice(version=3))
    await until_true(lambda: one.noticed == [notice(version=3)])
    await until_true(lambda: two.noticed == [notice(version=2)])


async def test_notices_of_one_publisher_keep_their_order(ends: Ends) -> None:
    one, two, _ = ends
    await two.watches("s")
    sent = [notice("s", number, b"x" * (number % 700)) for number in range(3000)]
    for each in sent:
        one.bus.publish(each)
    await until_true(lambda: len(two.noticed) == len(sent))
    assert two.noticed == sent


async def test_nothing_arrives_after_unwatch(ends: Ends) -> None:
    one, two, _ = ends
    await two.watches("s")
    await two.watches("t")
    two.bus.unwatch("s")
    two.bus.unwatch("never watched")
    one.bus.publish(notice("s"))
    one.bus.publish(notice("t"))
    await until_true(lambda: two.noticed == [notice("t")])


async def test_a_watched_session_is_missed_once_its_notices_arrive(ends: Ends) -> None:
    one, two, _ = ends
    two.bus.watch("s")
    two.bus.watch("s")
    await until_true(lambda: two.missed == ["s"])
    one.bus.publish(notice())
    await until_true(lambda: bool(two.noticed))
    assert two.missed == ["s"]


async def test_a_session_that_is_watched_again_is_missed_again(ends: Ends) -> None:
    _, two, _ = ends
    await two.watches("s")
    two.bus.unwatch("s")
    await two.watches("s")
    assert two.missed == ["s", "s"]


async def test_others_hear_that_something_changed_without_watching(ends: Ends) -> None:
    one, two, three = ends
    one.bus.publish(notice("nobody watches it"))
    await until_true(lambda: two.changes > 0 and three.changes > 0)
    assert not two.noticed
    assert one.changes == 0


async def test_a_deletion_and_an_unknown_version_arrive_as_they_are(ends: Ends) -> None:
    one, two, _ = ends
    await two.watches("s")
    deleted, unknown = Notice("s", 0, 0, 0, None), Notice("s", 2**50, 0, 2**40, None)
    one.bus.publish(deleted)
    one.bus.publish(unknown)
    await until_true(lambda: two.noticed == [deleted, unknown])


async def test_a_notice_of_too_many_bytes_arrives_without_its_events(
    redis_server: object, ends: Ends
) -> None:
    one, two, _ = ends
    await two.watches("s")
    one.bus.publish(notice("s", 2, b"x" * NOTICE_BYTES_MAX, b"y"))
    await until_true(lambda: bool(two.noticed))
    assert two.noticed == [notice("s", 2)._replace(bodies=None)]


async def test_many_sessions_can_be_watched(ends: Ends) -> None:
    one, two, _ = ends
    names = [f"s{number}" for number in range(2500)]
    for name in names:
        two.bus.watch(name)
    await until_true(lambda: len(two.missed) == len(names))
    assert sorted(two.missed) == sorted(names)
    for name in names:
        one.bus.publish(notice(name))
    await until_true(lambda: len(two.noticed) == len(names))

"""When the memory keeper collects: after growth, after a time, within its share of CPU time."""

from bamboo_gateway.server.memory import (
    COLLECT_SECONDS_MAX,
    GROWTH_BYTES_MAX,
    PAUSE_SHARE_MAX,
    MemoryKeeper,
)

HELD = 100_000_000
GROWN = HELD + GROWTH_BYTES_MAX + 1


class Process:
    """A process that holds what the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.requests = 0
        self.keeper = MemoryKeeper(lambda: self.requests)
        self.keeper.begin(self.now, HELD)

    def is_due(self, held: int, seconds: float = 1.0) -> bool:
        self.now += seconds
        return self.keeper.is_due(self.now, held)

    def collected(self, left: int, pause: float = 0.0) -> None:
        self.keeper.collected(self.now, pause, left)


def test_growth_is_collected() -> None:
    process = Process()
    assert not process.is_due(GROWN - 1)
    assert process.is_due(GROWN)


def test_growth_counts_from_the_least_that_was_held() -> None:
    process = Process()
    assert not process.is_due(HELD // 2)
    assert process.is_due(HELD // 2 + GROWTH_BYTES_MAX + 1)


def test_what_requests_at_work_have_is_looked_at_again_when_they_have_ended() -> None:
    process = Process()
    assert process.is_due(GROWN)
    process.collected(left=GROWN)
    assert not process.is_due(GROWN)
    assert process.is_due(GROWN)
    process.collected(left=HELD)
    assert process.is_due(GROWN)


def test_what_cannot_be_given_back_within_the_time_is_what_the_process_needs() -> None:
    process = Process()
    collections = 0
    for _ in range(int(4 * COLLECT_SECONDS_MAX)):
        if process.is_due(GROWN):
            process.collected(left=GROWN)
            collections += 1
    assert collections < 10
    assert not process.is_due(GROWN + GROWTH_BYTES_MAX)
    assert process.is_due(GROWN + GROWTH_BYTES_MAX + 1)


def test_a_process_that_served_requests_is_collected_after_a_time() -> None:
    process = Process()
    process.requests += 1
    assert not process.is_due(HELD, COLLECT_SECONDS_MAX - 1)
    assert process.is_due(HELD)
    process.collected(left=HELD)
    assert not process.is_due(HELD, COLLECT_SECONDS_MAX)


def test_an_idle_process_is_left_alone() -> None:
    process = Process()
    assert not process.is_due(HELD, 10 * COLLECT_SECONDS_MAX)


def test_collections_take_a_small_share_of_the_time() -> None:
    process = Process()
    assert process.is_due(GROWN)
    process.collected(left=HELD, pause=0.08)
    assert not process.is_due(GROWN, 0.08 / PAUSE_SHARE_MAX - 1)
    assert process.is_due(GROWN)


def test_where_nobody_can_tell_what_is_held_time_counts() -> None:
    process = Process()
    process.keeper.begin(process.now, 0)
    process.requests += 1
    assert not process.is_due(0)
    assert process.is_due(0, COLLECT_SECONDS_MAX)

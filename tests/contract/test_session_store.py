"""What every store promises (`bamboo_gateway.storage.base`), looked at by a second path."""

import pytest

from bamboo_gateway.domain import codec
from bamboo_gateway.domain.errors import BambooError, Conflict, Unavailable
from bamboo_gateway.observability.histogram import Histogram
from bamboo_gateway.storage.base import Done, SessionStore
from bamboo_gateway.storage.commits import Found, Record
from tests.contract.conftest import Reopen, both_paths
from tests.storage.writing import (
    StepClock,
    Writer,
    answer_to,
    append,
    committed,
    complete,
    everything,
    message,
    run_start,
    seqs,
    size_of,
    token,
)


async def test_a_created_session_is_loaded_and_read_back_by_a_second_path(
    store: SessionStore, second_path: Reopen
) -> None:
    """R1: acknowledged means it is there, for a fresh process too."""
    writer = Writer("s-1", store.next_epoch())
    await committed(
        store, writer.commit({"type": "session_created", "title": "Hi", "user_id": "u"})
    )
    await committed(store, writer.commit(message("m1"), token("a")))

    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        records = await everything(seen, "s-1")
        assert [record.seq for record in records] == [1, 2, 3]
        assert [codec.decode(record.body)["type"] for record in records] == [
            "session_created",
            "message",
            "token",
        ]
        assert (await seen.usage()).sessions == 1


async def test_load_gives_an_own_copy(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1"), run_start("run_1")))
    mine = await store.load("s-1")
    assert mine is not None
    mine.title = "changed"
    assert mine.active is not None
    mine.active.run_id = "other"
    assert await store.load("s-1") == writer.head


async def test_an_unknown_session_is_none_or_a_conflict(store: SessionStore) -> None:
    assert await store.load("nobody") is None
    writer = Writer("nobody", 1)
    writer.created = True
    error = await answer_to(append(store, writer.commit(token())))
    assert isinstance(error, Conflict)
    assert error.head is None
    for ask in (
        store.read("nobody", 1, 0, limit=1, max_bytes=1),
        store.find("nobody", 1, "message"),
        store.keys_in_use("nobody", 1, "message", {"m"}),
        store.delete("nobody", 1),
    ):
        assert isinstance(await refused(ask), Conflict)


@pytest.mark.parametrize("head_seq", [0, 1, 3, 40], ids="head_{}".format)
@pytest.mark.parametrize("count", [1, 2], ids="{}_events".format)
async def test_a_commit_on_another_head_is_refused_and_changes_nothing(
    store: SessionStore, second_path: Reopen, head_seq: int, count: int
) -> None:
    """R8, R3."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(token("kept")))
    before = await everything(store, "s-1")
    wrong = Writer.of(writer.head)
    wrong.head.seq = head_seq
    commit = wrong.commit(*(token(f"wrong {number}") for number in range(count)))
    error = await answer_to(append(store, commit))
    assert isinstance(error, Conflict)
    assert error.head == 2
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head
        assert await everything(seen, "s-1") == before


async def test_a_commit_of_another_epoch_is_refused(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    foreign = Writer.of(writer.head)
    foreign.head.epoch -= 1
    error = await answer_to(append(store, foreign.commit(token())))
    assert isinstance(error, Conflict)
    assert error.head is None
    read = store.read("s-1", writer.head.epoch - 1, 0, limit=1, max_bytes=1)
    assert isinstance(await refused(read), Conflict)


async def test_creating_what_exists_is_refused_with_its_head(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    error = await answer_to(append(store, Writer("s-1", store.next_epoch()).commit()))
    assert isinstance(error, Conflict)
    assert error.head == 2
    assert await store.load("s-1") == writer.head


async def test_commits_may_be_given_without_waiting_and_are_answered_in_order(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    order: list[int] = []

    def done_of(number: int) -> Done:
        def done(error: BambooError | None) -> None:
            assert error is None
            order.append(number)

        return done

    for number in range(199):
        store.append(writer.commit(token(str(number))), done_of(number))
    await committed(store, writer.commit(token("last")))
    assert order == list(range(199))
    fresh = await second_path(store)
    assert await seqs(fresh, "s-1") == list(range(1, 202))


async def test_what_is_built_on_a_refused_commit_is_refused_too(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    stray = Writer.of(writer.head)
    stray.head.seq = 7
    answers = [append(store, stray.commit(token())) for _ in range(3)]
    errors = [await answer_to(answer) for answer in answers]
    assert all(isinstance(error, Conflict) and error.head == 1 for error in errors)


async def test_nothing_is_seen_before_it_is_acknowledged(store: SessionStore) -> None:
    """R1: no read sees anything of a commit that has no answer yet."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    before = writer.head.copy()
    answer = append(store, writer.commit(message("m1")))
    seen = await store.load("s-1")
    if not answer.done():
        assert seen == before
    assert await answer_to(answer) is None
    assert await store.load("s-1") == writer.head


async def test_reading_pages_from_any_position_gives_every_event_once(
    store: SessionStore, second_path: Reopen
) -> None:
    """R2."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    for number in range(30):
        note = f"k{number}" if number % 3 == 0 else None
        await committed(store, writer.commit(token("a" * number), token("b"), note=note))
    epoch = writer.head.epoch
    async for seen in both_paths(store, second_path):
        for after in range(62):
            page = await seen.read("s-1", epoch, after, limit=7, max_bytes=1 << 20)
            assert [record.seq for record in page] == list(range(after + 1, min(after + 8, 62)))
            assert all(codec.decode(record.body)["seq"] == record.seq for record in page)
        assert await seen.read("s-1", epoch, 1000, limit=7, max_bytes=100) == []


async def test_a_page_is_bounded_by_bytes_but_never_empty_before_the_end(
    store: SessionStore,
) -> None:
    """R11."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(*(token("x" * 1000) for _ in range(20))))
    epoch = writer.head.epoch
    assert len(await store.read("s-1", epoch, 1, limit=100, max_bytes=1)) == 1
    page = await store.read("s-1", epoch, 1, limit=100, max_bytes=5000)
    assert 2 <= len(page) <= 5


async def test_marked_lines_are_found_by_name_range_and_direction(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    for number in range(20):
        await committed(
            store,
            writer.commit(
                message(f"m{number}"),
                run_start(f"run_{number}"),
                token(),
                complete(f"run_{number}"),
                note=f"key{number}",
            ),
        )
    epoch = writer.head.epoch

    def names(records: list[Record]) -> list[str]:
        return [codec.decode(record.body)["message"]["id"] for record in records]

    async for seen in both_paths(store, second_path):
        everyone = await seen.find("s-1", epoch, "message")
        assert names(everyone) == [f"m{number}" for number in range(20)]
        assert [record.seq for record in everyone] == list(range(2, 82, 4))
        last = await seen.find("s-1", epoch, "message", reverse=True, limit=3)
        assert names(last) == ["m19", "m18", "m17"]
        inner = await seen.find("s-1", epoch, "message", after=2, before=14)
        assert names(inner) == ["m1", "m2"]
        inner = await seen.find("s-1", epoch, "message", before=14, reverse=True, limit=2)
        assert names(inner) == ["m2", "m1"]
        assert names(await seen.find("s-1", epoch, "message", key="m7")) == ["m7"]
        assert await seen.find("s-1", epoch, "message", key="m77") == []
        wanted = {f"m{number}" for number in range(15, 25)} | {"run_5", "key3"}
        used = {f"m{number}" for number in range(15, 20)}
        assert await seen.keys_in_use("s-1", epoch, "message", wanted) == used
        assert await seen.keys_in_use("s-1", epoch, "run", wanted) == {"run_5"}
        assert await seen.keys_in_use("s-1", epoch, "note", wanted) == {"key3"}
        assert await seen.keys_in_use("s-1", epoch, "message", set()) == set()
        run = await seen.find("s-1", epoch, "run", key="run_5")
        assert [codec.decode(record.body)["type"] for record in run] == ["run_start", "complete"]
        [note] = await seen.find("s-1", epoch, "note", key="key3")
        assert codec.decode(note.body)["key"] == "key3"
        assert note.seq == 17
        assert len(await seen.find("s-1", epoch, "note", limit=5)) == 5


@pytest.mark.parametrize("reverse", [False, True])
async def test_found_lines_are_bounded_by_bytes_and_paging_gives_each_once(
    store: SessionStore, second_path: Reopen, reverse: bool
) -> None:
    """R11: a line above the bound comes alone; the answer says whether there is more."""
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    contents = ["x" * length for length in (1000, 1000, 1000, 50_000, 300_000, 10, 10, 3000, 1000)]
    await committed(store, writer.commit(*(message(f"m{n}", c) for n, c in enumerate(contents))))
    epoch = writer.head.epoch
    async for seen in both_paths(store, second_path):
        pages: list[Found] = []
        after, before = 0, writer.head.seq + 1
        while page := await seen.find(
            "s-1", epoch, "message", after=after, before=before, max_bytes=4000, reverse=reverse
        ):
            pages.append(page)
            after, before = (after, page[-1].seq) if reverse else (page[-1].seq, before)
        assert not page.has_more
        assert [found.has_more for found in pages] == [True] * (len(pages) - 1) + [False]
        for found in pages:
            assert len(found) == 1 or sum(len(record.body) for record in found) <= 4000
        said = [codec.decode(record.body)["message"]["id"] for found in pages for record in found]
        numbers = range(len(contents))
        assert said == [f"m{n}" for n in (reversed(numbers) if reverse else numbers)]
        lengths = [len(found) for found in pages]
        assert lengths == ([1, 3, 1, 1, 3] if reverse else [3, 1, 1, 3, 1])


async def test_marks_are_counted_without_their_lines(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    for number in range(20):
        run = run_start(f"run_{number}"), complete(f"run_{number}")
        await committed(store, writer.commit(message(f"m{number}"), *run, note=f"key{number}"))
    epoch = writer.head.epoch
    async for seen in both_paths(store, second_path):
        assert await seen.count_marks("s-1", epoch, "message") == 20
        assert await seen.count_marks("s-1", epoch, "run") == 40
        assert await seen.count_marks("s-1", epoch, "note") == 20
        for after, before in ((2, 14), (0, 3), (50, None), (7, 8), (61, None)):
            found = await seen.find("s-1", epoch, "message", after=after, before=before)
            counted = await seen.count_marks("s-1", epoch, "message", after=after, before=before)
            assert counted == len(found)
    with pytest.raises(Conflict):
        await seen.count_marks("nobody", 1, "message")


async def test_a_search_that_was_cut_by_its_limit_says_so(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(*(message("twice", str(n)) for n in range(3))))
    epoch = writer.head.epoch
    async for seen in both_paths(store, second_path):
        for key in (None, "twice"):
            assert (await seen.find("s-1", epoch, "message", key=key, limit=2)).has_more
            assert not (await seen.find("s-1", epoch, "message", key=key, limit=3)).has_more
            assert len(await seen.find("s-1", epoch, "message", key=key, max_bytes=1)) == 1
            last = await seen.find("s-1", epoch, "message", key=key, max_bytes=1, reverse=True)
            assert [record.seq for record in last] == [writer.head.seq]
            assert last.has_more
        assert not (await seen.find("s-1", epoch, "run", limit=1)).has_more


async def test_a_note_without_events_is_kept(store: SessionStore, second_path: Reopen) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    await committed(store, writer.commit(note="only"))
    fresh = await second_path(store)
    [note] = await fresh.find("s-1", writer.head.epoch, "note", key="only")
    assert note.seq == 2
    assert await seqs(fresh, "s-1") == [1, 2]


async def test_a_deleted_session_is_gone_for_good(store: SessionStore, second_path: Reopen) -> None:
    """R9."""
    writer = Writer("s-1", store.next_epoch())
    commits = [writer.commit(message("m1")), writer.commit(token())]
    for commit in commits:
        await committed(store, commit)
    assert await store.delete("s-1", writer.head.epoch) >= size_of(*commits)
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") is None
        assert (await seen.usage()).sessions == 0
        assert isinstance(await refused(seen.delete("s-1", writer.head.epoch)), Conflict)


async def test_a_late_append_never_writes_into_a_successor_of_the_same_id(
    store: SessionStore, second_path: Reopen
) -> None:
    """R3, R8."""
    old = Writer("s-1", store.next_epoch())
    await committed(store, old.commit(message("old")))
    await store.delete("s-1", old.head.epoch)
    new = Writer("s-1", store.next_epoch())
    assert new.head.epoch > old.head.epoch
    await committed(store, new.commit(message("new")))
    error = await answer_to(append(store, old.commit(token("late"))))
    assert isinstance(error, Conflict)
    assert error.head is None
    async for seen in both_paths(store, second_path):
        bodies = b"".join(record.body for record in await everything(seen, "s-1"))
        assert b'"old"' not in bodies
        assert b"late" not in bodies
        assert await seen.load("s-1") == new.head


async def test_deleting_another_epoch_is_refused(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    error = await refused(store.delete("s-1", writer.head.epoch - 1))
    assert isinstance(error, Conflict)
    assert await store.load("s-1") == writer.head


async def test_epochs_only_rise(store: SessionStore, clock: StepClock, second_path: Reopen) -> None:
    first = store.next_epoch()
    assert first == clock.now_ms()
    writer = Writer("s-1", first)
    await committed(store, writer.commit())
    clock.ms -= 1_000_000
    assert store.next_epoch() > first
    fresh = await second_path(store)
    assert fresh.next_epoch() > first


async def test_touch_moves_the_last_activity_forward_only(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit())
    epoch, before = writer.head.epoch, writer.head.last_activity_at
    store.touch("s-1", epoch, before - 5000)
    store.touch("nobody", epoch, before + 9000)
    store.touch("s-1", epoch - 1, before + 9000)
    head = await store.load("s-1")
    assert head is not None
    assert head.last_activity_at == before
    store.touch("s-1", epoch, before + 5000)
    async for seen in both_paths(store, second_path):
        head = await seen.load("s-1")
        assert head is not None
        assert head.last_activity_at == before + 5000
        assert head.updated_at == writer.head.updated_at


async def test_commits_of_deltas_move_the_head_and_activity(
    store: SessionStore, second_path: Reopen
) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(run_start("run_1")))
    writer.now_ms += 1000
    commit = writer.commit(token())
    assert commit.head is None
    await committed(store, commit)
    async for seen in both_paths(store, second_path):
        assert await seen.load("s-1") == writer.head


async def test_sessions_with_an_open_or_queued_run_are_unfinished(
    store: SessionStore, second_path: Reopen
) -> None:
    epoch = store.next_epoch()
    for name in ("done", "open", "none"):
        writer = Writer(name, epoch)
        await committed(store, writer.commit())
        if name != "none":
            await committed(store, writer.commit(run_start("run_1")))
        if name == "done":
            await committed(store, writer.commit(complete("run_1")))
    queued = Writer("queued", epoch)
    event = {"type": "run_queued", "run_id": "run_9", "agent": "default", "messages": []}
    await committed(store, queued.commit(event))
    async for seen in both_paths(store, second_path):
        assert sorted(await seen.unfinished()) == ["open", "queued"]


async def test_a_released_session_comes_back_on_demand(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    await store.release("s-1")
    await store.release("nobody")
    assert await store.load("s-1") == writer.head
    await committed(store, writer.commit(token()))
    assert await seqs(store, "s-1") == [1, 2, 3]


async def test_a_closed_store_answers_unavailable(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    answer = append(store, writer.commit())
    await store.aclose()
    assert await answer_to(answer) is None
    await store.aclose()
    error = await answer_to(append(store, writer.commit(token())))
    assert isinstance(error, Unavailable)


async def test_ids_that_differ_in_case_only_are_two_sessions(
    store: SessionStore, second_path: Reopen
) -> None:
    """R13."""
    epoch = store.next_epoch()
    writers = [Writer(name, epoch) for name in ("abc", "ABC", "aBc", "Z" * 128, "z" * 128)]
    for writer in writers:
        await committed(store, writer.commit(message(f"in-{writer.head.id}")))
    fresh = await second_path(store)
    for writer in writers:
        assert await fresh.load(writer.head.id) == writer.head
        [record] = await fresh.find(writer.head.id, epoch, "message")
        assert f"in-{writer.head.id}".encode() in record.body


async def test_stats_are_names_to_numbers_and_histograms(store: SessionStore) -> None:
    writer = Writer("s-1", store.next_epoch())
    await committed(store, writer.commit(message("m1")))
    stats = await store.stats()
    assert all(isinstance(value, int | float | Histogram) for value in stats.values())
    assert stats["sessions"] == 1
    assert stats["events_total"] == 2


async def refused(awaitable) -> BaseException | None:
    try:
        await awaitable
    except Conflict as error:
        return error
    return None

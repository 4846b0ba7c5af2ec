"""Reads that have to wait for the answer of a commit that they may have seen."""

import anyio
import psycopg

from bamboo_gateway.storage.sql.store import SqlStore
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import DEADLINE_SECONDS, T0, Writer, append, committed, message, seqs
from tests.support.waiting import until_true


async def test_a_read_that_is_cancelled_cancels_no_other_that_waits_for_the_same_commit(
    postgres_url: str,
):
    writer = Writer("s1", T0)
    async with open_store(postgres_url) as store:
        await committed(store, writer.commit(message("m1")))
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT 1 FROM sessions WHERE id = 's1' FOR UPDATE")
            answer = append(store, writer.commit(message("m2")))
            await until_true(lambda: bool(store._writer._batches))
            with anyio.fail_after(DEADLINE_SECONDS):
                async with anyio.create_task_group() as group:
                    group.start_soon(seqs, store, "s1")
                    await until_true(lambda: _is_waited_for(store))
                    group.cancel_scope.cancel()
            shown: list[list[int]] = []

            async def read() -> None:
                shown.append(await seqs(store, "s1"))

            with anyio.fail_after(DEADLINE_SECONDS):
                async with anyio.create_task_group() as group:
                    group.start_soon(read)
                    other.rollback()
            assert await answer is None
            assert shown


def _is_waited_for(store: SqlStore) -> bool:
    """Tell whether a read waits for the commit, which the thread has taken."""
    return any(batch._answered is not None for batch in store._writer._batches)

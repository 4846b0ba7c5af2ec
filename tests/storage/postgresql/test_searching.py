"""The same words find the same messages, whatever the locale of the database."""

import pytest

from bamboo_gateway.domain.search import fold
from bamboo_gateway.storage.reports import SearchQuery
from tests.storage.postgresql.conftest import open_store
from tests.storage.writing import T0, Writer, committed, message
from tests.support.postgres import GivenServer, PostgresServer

FOUND = ["strasse", "京", "京都", "istanbul", "%_", "'", "\\", "x", "tr"]


@pytest.mark.parametrize("options", ["", "LOCALE 'C.UTF-8'"], ids=["C", "UTF-8"])
async def test_words_of_many_scripts_are_found(
    postgres_server: PostgresServer | GivenServer, options: str
):
    writer = Writer("s1", T0)
    with postgres_server.database(options) as name:
        async with open_store(postgres_server.url(name)) as store:
            await committed(
                store, writer.commit(message("m1", "STRAẞE İstanbul 京都 100%_'\"\\ x"))
            )
            await committed(store, writer.commit(message("m2", "other")))
            store._search.index()
            for term in FOUND:
                page = await store.search(SearchQuery((fold(term),)))
                seqs = [hit.seq for hit in page.hits]
                assert seqs[-1:] == [2], term
                assert (await store.search(SearchQuery((fold(term), "absent")))).hits == []

"""A document is streamed: in bounded pieces, in bounded memory, and not at all after a failure."""

import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.domain.limits import SEND_BYTES_MAX, MiB
from bamboo_gateway.exporters.base import ExportSource
from bamboo_gateway.exporters.factory import EXPORT_FORMATS, make_exporter
from bamboo_gateway.exporters.importing import read_import
from tests.exporters.documents import MESSAGES, SESSION, export, message, pages


@pytest.mark.parametrize("name", EXPORT_FORMATS)
async def test_no_piece_is_larger_than_one_send(name: str):
    messages = [message(1, "user", "x y\n" * 500_000), message(2, "assistant", "z")]
    source = ExportSource(SESSION, pages(messages))
    sizes = [len(piece) async for piece in make_exporter(name).stream(source)]
    assert max(sizes) == SEND_BYTES_MAX
    assert len(sizes) > 7


@pytest.mark.parametrize("name", EXPORT_FORMATS)
@pytest.mark.parametrize("size", [1, 2, 100])
async def test_page_boundaries_do_not_change_a_document(name: str, size: int):
    source = ExportSource(SESSION, pages(MESSAGES, size))
    whole = b"".join([piece async for piece in make_exporter(name).stream(source)])
    assert whole == await export(name)


@pytest.mark.parametrize("name", EXPORT_FORMATS)
async def test_a_session_without_messages_is_a_document_too(name: str):
    data = await export(name, messages=[])
    if name != "markdown":
        assert read_import(data, name, now_ms=0).sessions[0].messages == []


@pytest.mark.parametrize("name", ["json", "yaml"])
async def test_a_failure_in_between_leaves_a_document_that_is_not_read(name: str):
    async def failing() -> AsyncGenerator[Any]:
        yield MESSAGES[:2]
        raise OSError("disk")

    pieces: list[bytes] = []

    async def collect() -> None:
        async for piece in make_exporter(name).stream(ExportSource(SESSION, failing())):
            pieces.append(piece)  # noqa: PERF401  what came before the failure is looked at

    with pytest.raises(OSError, match="disk"):
        await collect()
    with pytest.raises(InvalidInput):
        read_import(b"".join(pieces), name, now_ms=0)


async def test_only_known_formats_are_made():
    with pytest.raises(InvalidInput, match="markdown, json, yaml"):
        make_exporter("pdf")


@pytest.mark.parametrize(
    "name", ["json", *(pytest.param(name, marks=pytest.mark.slow) for name in ("markdown", "yaml"))]
)
@pytest.mark.timeout(300)
async def test_a_hundred_thousand_messages_are_exported_in_bounded_memory(name: str):
    count, page = 100_000, 500
    words = "Some words, `code`, and a second line.\nIt is here."

    async def many() -> AsyncGenerator[Any]:
        for start in range(0, count, page):
            yield [message(n, "user", words) for n in range(start, start + page)]

    written = 0
    tracemalloc.start()
    try:
        async for piece in make_exporter(name).stream(ExportSource(SESSION, many())):
            written += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert written > 8 * MiB
    assert peak < 4 * MiB


@pytest.mark.parametrize("name", EXPORT_FORMATS)
async def test_nothing_is_read_ahead_of_the_reader_and_the_pages_are_closed_with_it(name: str):
    """R7, R11: a reader that stops costs what was written of one page."""
    asked: list[int] = []

    async def many() -> AsyncGenerator[Any]:
        try:
            for number in range(100):
                asked.append(number)
                yield [message(number, "user", "x" * SEND_BYTES_MAX * 2)]
        finally:
            asked.append(-1)

    document = make_exporter(name).stream(ExportSource(SESSION, many()))
    read = 0
    while read < 3 * SEND_BYTES_MAX:
        read += len(await anext(document))
    assert asked == [0, 1]
    await document.aclose()
    assert asked == [0, 1, -1]


@pytest.mark.parametrize("name", EXPORT_FORMATS)
async def test_r11_a_message_of_many_short_lines_costs_a_few_times_its_size(name: str):
    text = "x\n" * (MiB // 4)
    parts = [{"type": "text", "text": text}]
    messages = [message(1, "user", text), message(2, "user", parts)]
    source = ExportSource(SESSION, pages(messages, 1))
    tracemalloc.start()
    try:
        async for _ in make_exporter(name).stream(source):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24 * MiB

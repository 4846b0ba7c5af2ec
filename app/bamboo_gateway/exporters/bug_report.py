"""A bug report of one session: a zip, with everything masked that looks like a secret."""

import zipfile
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import anyio
from anyio import to_thread

from bamboo_gateway import __version__
from bamboo_gateway.domain.codec import decode, encode, encode_pretty
from bamboo_gateway.domain.masking import Masker
from bamboo_gateway.exporters.zip_buffer import ZipBuffer


async def stream_bug_report(
    documents: Mapping[str, Callable[[], Any]],
    events: AsyncGenerator[list[bytes]],
    limiter: anyio.CapacityLimiter,
) -> AsyncGenerator[bytes]:
    """Yield the zip in pieces: the documents, the events as lines, and what was masked.

    Args:
        documents: By file name, a function that makes the value of a JSON document in a thread.
        events: The events' bodies, page by page. It is closed at the end.
        limiter: Limits the threads that this takes.
    """
    masker = Masker()
    buffer = ZipBuffer()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, allowZip64=True)

    def put(name: str, make: Callable[[], Any]) -> None:
        archive.writestr(name, encode_pretty(masker.value(make())))

    for name, make in documents.items():
        await to_thread.run_sync(put, name, make, limiter=limiter)
    with archive.open("events.jsonl", "w", force_zip64=True) as file:

        def put_events(bodies: list[bytes]) -> None:
            file.write(b"".join(encode(masker.value(decode(body))) + b"\n" for body in bodies))

        async with aclosing(events):
            async for bodies in events:
                await to_thread.run_sync(put_events, bodies, limiter=limiter)
                if data := buffer.take():
                    yield data
    masked = encode_pretty(_masked_counts(masker))
    await to_thread.run_sync(archive.writestr, "masked.json", masked, limiter=limiter)
    archive.close()
    yield buffer.take()


def _masked_counts(masker: Masker) -> dict[str, Any]:
    return {
        "masked": dict(masker.masked),
        "note": "What looks like a secret is masked. Read the files before you send them: "
        "they hold the conversation.",
        "version": __version__,
    }

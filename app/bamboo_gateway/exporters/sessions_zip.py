"""Many sessions in one zip."""

import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing

import anyio
from anyio import to_thread

from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.exporters.base import Export
from bamboo_gateway.exporters.zip_buffer import ZipBuffer


async def stream_zip(
    sessions: Iterable[tuple[str, Callable[[], Awaitable[Export]]]],
    limiter: anyio.CapacityLimiter,
) -> AsyncGenerator[bytes]:
    """Yield the zip in pieces. Its `errors.txt` names the sessions that failed.

    Args:
        sessions: Each session id, and a function that begins to write the session's document.
        limiter: Limits the threads that this takes.
    """
    buffer = ZipBuffer()
    archive = zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, allowZip64=True)
    failed: list[str] = []
    for number, (session_id, begin) in enumerate(sessions, 1):
        try:
            document = await begin()
        except BambooError as error:
            failed.append(f"{session_id}: {error.detail} ({error.code})\n")
            continue
        name = f"{number:04d}-{document.file_name}"
        with archive.open(name, "w", force_zip64=True) as file:
            try:
                async with aclosing(document.chunks) as chunks:
                    async for chunk in chunks:
                        await to_thread.run_sync(file.write, chunk, limiter=limiter)
                        if data := buffer.take():
                            yield data
            except BambooError as error:
                failed.append(f"{session_id}: cut off: {error.detail} ({error.code})\n")
    if failed:
        archive.writestr("errors.txt", "".join(failed))
    archive.close()
    yield buffer.take()

"""Large bodies that are read more than once, kept in a file without a name during the request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from anyio import to_thread
from starlette.requests import Request

from bamboo_gateway.api.body_memory import reservation_of
from bamboo_gateway.api.file_bodies import pieces_of
from bamboo_gateway.api.upload_limits import upload_place
from bamboo_gateway.domain.errors import TooLarge
from bamboo_gateway.settings import Settings


@asynccontextmanager
async def spooled_body(request: Request) -> AsyncIterator[tuple[BinaryIO, str]]:
    """Write the body to a file, and yield it with the digest of its bytes.

    The file has no name: it goes with the process, whatever happens.

    Raises:
        TooLarge: The body is larger than `max_import_bytes`.
        LimitReached, Unavailable: Too many uploads go on.
        ClientDisconnect, EdgeError: As `file_bodies.pieces_of`.
    """
    settings: Settings = request.app.state.settings
    size_max = settings.max_import_bytes

    def refusal() -> TooLarge:
        return TooLarge(f"The zip is larger than {size_max} bytes (max_import_bytes).")

    with upload_place(request):
        # The document in it is read as a whole.
        await reservation_of(request.scope).hold(settings.max_body_bytes)
        file = cast("BinaryIO", await to_thread.run_sync(TemporaryFile))
        try:
            digest = sha256()

            def write(data: bytes) -> None:
                file.write(data)
                digest.update(data)

            seconds = settings.upload_timeout_seconds
            async for piece in pieces_of(request, seconds, size_max, refusal):
                await to_thread.run_sync(write, piece)
            await to_thread.run_sync(file.seek, 0)
            yield file, digest.hexdigest()
        finally:
            await to_thread.run_sync(file.close)

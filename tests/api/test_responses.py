"""Documents in pieces: the work for them ends when the client disconnects."""

from collections.abc import AsyncGenerator

import anyio
import pytest
from starlette.types import Message, Scope

from bamboo_gateway.api.responses import DocumentResponse
from tests.api.serving import SECONDS

SCOPE: Scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}}


async def answered(chunks: AsyncGenerator[bytes], left: anyio.Event) -> list[Message]:
    """Return what was sent of a document until `left` is set, when its client disconnects."""
    sent: list[Message] = []

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    with anyio.fail_after(SECONDS):
        await DocumentResponse(chunks, "text/plain", {})(SCOPE, receive, send)
    return sent


async def test_r11_a_document_is_closed_when_its_client_disconnects() -> None:
    left, closed = anyio.Event(), anyio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            yield b"x"
            left.set()
            await anyio.sleep_forever()
        finally:
            closed.set()

    sent = await answered(endless(), left)
    assert closed.is_set()
    assert [message.get("body") for message in sent] == [None, b"x"]


async def test_a_document_that_fails_is_closed_and_its_body_stays_incomplete() -> None:
    closed = anyio.Event()

    async def failing() -> AsyncGenerator[bytes]:
        try:
            yield b"x"
            raise OSError("disk")
        finally:
            closed.set()

    with pytest.raises(OSError, match="disk"):
        await answered(failing(), anyio.Event())
    assert closed.is_set()


async def test_a_document_is_sent_to_its_end() -> None:
    async def two() -> AsyncGenerator[bytes]:
        yield b"x"
        yield b"y"

    *_, before, last = await answered(two(), anyio.Event())
    assert before["body"] == b"y"
    assert not last["more_body"]

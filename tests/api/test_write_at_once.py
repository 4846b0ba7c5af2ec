"""R2, R7: a direct write has the same bytes as the server's `send`."""

import asyncio
import logging
import weakref
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bamboo_gateway.server.direct_write import write_at_once

_LOG = logging.getLogger(__name__)


class Transport:
    """Keeps what is written; may be closing, or broken."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closing = False
        self.error: Exception | None = None

    def write(self, data: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


def begun(transport: Transport, *headers: tuple[bytes, bytes]) -> RequestResponseCycle:
    """Return a cycle whose response has begun."""
    as_transport = cast("asyncio.Transport", transport)
    cycle = RequestResponseCycle(
        scope={"type": "http", "method": "GET", "http_version": "1.1"},  # type: ignore[typeddict-item]
        transport=as_transport,
        flow=FlowControl(as_transport),
        logger=_LOG,
        access_logger=_LOG,
        access_log=False,
        default_headers=[],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=True,
        on_response=lambda: None,
    )
    _at_once(cycle, {"type": "http.response.start", "status": 200, "headers": headers})
    transport.written.clear()
    return cycle


def _at_once(cycle: RequestResponseCycle, message: dict[str, Any]) -> None:
    with pytest.raises(StopIteration):
        cycle.send(cast("Any", message)).send(None)


@given(st.lists(st.binary(max_size=300) | st.integers(0, 70_000).map(bytes), max_size=5))
def test_a_direct_write_has_the_bytes_of_send(chunks: list[bytes]):
    slow, fast = Transport(), Transport()
    sending, writing = begun(slow), begun(fast)
    for chunk in chunks:
        _at_once(sending, {"type": "http.response.body", "body": chunk, "more_body": True})
        assert write_at_once(weakref.ref(writing), chunk)
    assert b"".join(fast.written) == b"".join(slow.written)


@pytest.mark.parametrize("what", ["slow", "closing", "broken", "gone", "complete", "plain"])
def test_a_direct_write_refuses_when_send_would_wait_or_fail(what: str):
    transport = Transport()
    has_length = [(b"content-length", b"9")] if what == "plain" else []
    cycle = begun(transport, *has_length)
    match what:
        case "slow":
            cycle.flow.pause_writing()
        case "closing":
            transport.closing = True
        case "broken":
            transport.error = RuntimeError("the handler is closed")
        case "gone":
            cycle.disconnected = True
        case "complete":
            cycle.response_complete = True
        case _:
            assert not cycle.chunked_encoding
    assert not write_at_once(weakref.ref(cycle), b"data: x\n\n")
    assert not transport.written


def test_a_direct_write_refuses_before_the_response_begins():
    transport = Transport()
    cycle = begun(transport)
    cycle.response_started, cycle.chunked_encoding = False, None
    assert not write_at_once(weakref.ref(cycle), b"data: x\n\n")
    assert not transport.written


def test_a_direct_write_refuses_after_the_request_ends():
    transport = Transport()
    cycle = weakref.ref(begun(transport))
    assert cycle() is None
    assert not write_at_once(cycle, b"data: x\n\n")
    assert not transport.written

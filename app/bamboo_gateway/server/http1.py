"""The server's HTTP/1.1 protocol: uvicorn's, with bounded requests, and problems for refusals.

uvicorn bounds neither the size of a head nor the time that a head, a body or a client's reading of
the answer may take, and it answers what it cannot read with plain text. This protocol adds:

* Bounds of heads, trailers and chunk extensions; deadlines of heads, bodies and reading clients.
* Refusals of heads that a proxy in front could read differently (`request_head`).
* No trailers: to the parser they are headers that come late, so a client could send in them what a
  proxy checks or sets in the head.
* No `Upgrade` (RFC 9110, 7.8): Java's own client and `curl --http2` send it with ordinary requests.
  The parser would leave their bodies unread, and take what follows for requests.
* HTTP/1.0, which nginx speaks unless it is configured otherwise. It has no chunks (RFC 9112, 6.1):
  the end of the connection is the end of an answer.
* A lingering close (RFC 9112, 9.6): a connection that is closed while a body is still on its way is
  reset, which may take the answer with it. To nginx that is a 502.
* A close after a final answer to `Expect: 100-continue` (RFC 9110, 10.1.1): the body may come or
  not. Go 1.19 goes on with its next request, which would be read as the body.
* For streams, a way to cut a client that reads nothing (`sse.ABORT`), and a way to write without a
  coroutine (`sse.WRITE`, `direct_write`).
* Smaller containers per connection (`compact`).

uvicorn documents none of the methods and attributes that this class overrides, so `pyproject.toml`
bounds its version, and `tests/server/test_uvicorn.py` checks that each of them exists.
"""

import asyncio
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import (
    HttpToolsProtocol,
    RequestResponseCycle,
)

from bamboo_gateway.api.access_log import RequestLog
from bamboo_gateway.api.bodies import STREAMED_BODY
from bamboo_gateway.api.sse import ABORT, WATCHED, WRITE
from bamboo_gateway.server.compact import CompactEvent, CompactFlowControl, CompactPipeline
from bamboo_gateway.server.connection_limits import ConnectionLimits
from bamboo_gateway.server.direct_write import write_at_once
from bamboo_gateway.server.final_response import final_send
from bamboo_gateway.server.refusals import encode_refusal
from bamboo_gateway.server.request_head import find_ambiguity, without_upgrade

if TYPE_CHECKING:
    from bamboo_gateway.settings import Settings

HEAD_BYTES_MAX: Final = 64 * 1024
"""Request line and headers: eight times what common servers accept, for large tokens and cookies.
Trailers, and a chunk's extensions, may have as many bytes without a byte of body between them."""

HEAD_SECONDS_MAX: Final = 30.0
"""From the start of a connection, or a head's first byte, to the head's end. A waiting connection
holds a file handle, and a client that sends a byte now and then would hold it without end."""

BODY_WINDOW_SECONDS: Final = 30.0
BODY_WINDOW_BYTES_MIN: Final = 30 * 1024
"""How many bytes of a body have to come in each window of that many seconds, until the body is
complete: 1 KiB/s, half of what the slowest mobile networks reach, over the time that a phone needs
to find its network again. In each window and not on average: otherwise a client that sent much at
first could hold its body for hours with a byte now and then. A streamed body (`STREAMED_BODY`) has
no such minimum: a producer sends a line when its agent has written one. It may pause for
`external_run_timeout_seconds`; after that its run has ended."""

LINGER_SECONDS_MAX: Final = 30.0
"""How long the gateway drops the rest of a body after an answer that closes the connection: many
clients read nothing before they have sent everything. As long as a body window."""


Awaited = Literal["head", "body", "rest"]
"""What a deadline is for: a complete head, more of a body, or the body's rest after the answer."""


class GatewayProtocol(HttpToolsProtocol):
    """The protocol of one TCP connection."""

    # With these names in its dict an instance would have more than 30, and CPython would give it a
    # table of its own: 1.2 KiB (`compact` has the measurement).
    __slots__ = (
        "_body_at",
        "_body_bytes",
        "_deadline",
        "_deadline_of",
        "_framing_bytes",
        "_head_count",
        "_is_admitted",
        "_lingers",
        "_reading_head",
        "_refusal",
        "_unread_bytes",
        "_unread_deadline",
        "_window_start",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pipeline = CompactPipeline()  # type: ignore[assignment]
        self._head_count = 0
        self._reading_head = True
        self._framing_bytes = 0
        self._refusal = ""
        self._is_admitted = False
        self._lingers = False
        self._body_bytes = 0
        self._body_at = 0.0
        self._window_start: int | None = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of: Awaited = "head"
        self._unread_deadline: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = CompactFlowControl(transport)
        limits = self._limits
        reason = limits.enter(self._host)
        if reason is None:
            self._is_admitted = True
            self._watch()
        else:
            # The answer comes before any request, so that a connection too many costs only this.
            self._request_log.connections_cut[reason] += 1
            self._answer_and_close("too-many-tcp-connections", limits.detail(reason))

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._forget_unread()
        if self._is_admitted:
            self._limits.leave(self._host)
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_unread()

    def _watch_reader(self) -> None:
        # Also after the end of an answer, and when the connection closes behind it: the transport
        # holds the rest of the answer for as long as the client does not read.
        self._forget_unread()
        self._unread_bytes = self.transport.get_write_buffer_size()
        settings: Settings = self.config.app.state.settings  # type: ignore[union-attr] # `create_app`'s
        seconds = settings.send_timeout_seconds
        self._unread_deadline = self.loop.call_later(seconds, self._look_at_reader)

    def _look_at_reader(self) -> None:
        self._unread_deadline = None
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and WATCHED in (cycle.scope.get("extensions") or {}):
            return
        if self.transport.get_write_buffer_size() < self._unread_bytes:
            self._watch_reader()  # the client reads, slowly
            return
        self._request_log.connections_cut["unread"] += 1
        self.transport.abort()

    def _forget_unread(self) -> None:
        if self._unread_deadline is not None:
            self._unread_deadline.cancel()
            self._unread_deadline = None

    @property
    def _host(self) -> str:
        return self.client[0] if self.client else ""

    @override
    def timeout_keep_alive_handler(self) -> None:
        self._request_log.connections_cut["idle"] += not self.transport.is_closing()
        super().timeout_keep_alive_handler()

    @override
    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        # The parser reports a header when it is complete, so the bytes of one that never ends are
        # counted here; `on_message_begin` and `on_body` start again at 0.
        self._unset_keepalive_if_required()
        self._framing_bytes += len(data)
        try:
            self._parse(data)
        except HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._framing_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._request_log.connections_cut["head_too_large"] += 1
            part = "head is" if self._reading_head else "trailers or chunk extensions are"
            self.send_400_response(f"The request's {part} too large.")
        self._watch()

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                self.parser.feed_data(rest)
            except HttpParserUpgrade as upgrade:
                # Treat it as any other request: parse the head once more, without the header that
                # made the parser stop.
                (end,) = upgrade.args
                rest = rest[end:]
                head = without_upgrade(
                    self.parser.get_method(),
                    self.url,
                    self.parser.get_http_version(),
                    self.headers,
                )
                self.parser = HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
                self.parser.feed_data(head)
            else:
                return

    @property
    def _would_upgrade(self) -> bool:
        # `should_upgrade` is also true for CONNECT, which the gateway cannot answer.
        return self.parser.should_upgrade() and any(name == b"upgrade" for name, _ in self.headers)

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_count += 1
        self._reading_head = True
        self._framing_bytes = 0

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head:
            super().on_header(name, value)

    @override
    def on_headers_complete(self) -> None:
        if self._would_upgrade:
            return  # the head is parsed again, without `Upgrade`
        self._reading_head = False
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_BYTES_MAX:
            self._request_log.connections_cut["head_too_large"] += 1
            self._refusal = "The request's head is too large."
        else:
            self._refusal = find_ambiguity(self.parser.get_http_version(), self.url, self.headers)
        if self._refusal:
            raise ValueError(self._refusal)  # the parser makes an HttpParserError of it: a 400
        self._body_bytes = 0
        self._forget_deadline()
        # HTTP/1.0 has no `100` (RFC 9110, 10.1.1).
        self.expect_100_continue &= self.parser.get_http_version() != "1.0"
        super().on_headers_complete()
        self.cycle.message_event = CompactEvent()  # nothing waits for the other one yet
        if self.expect_100_continue or not self.cycle.keep_alive:
            # Shadow the method, which the cycle's task looks up when it begins.
            linger = weakref.WeakMethod(self._linger_if_unread)
            self.cycle.send = final_send(self.cycle, linger)  # type: ignore[assignment]
        # Bound to this request's cycle: the protocol's may be that of a later, pipelined request.
        # A weak reference, as the cycle holds the scope: otherwise every request is a reference
        # cycle for the garbage collector, whose pauses of 80 ms made the slowest answers.
        # (uvicorn's types allow only its own extensions.)
        self.scope["extensions"] = {
            ABORT: self.transport.abort,  # type: ignore[dict-item]
            WRITE: partial(write_at_once, weakref.ref(self.cycle)),  # type: ignore[dict-item]
        }

    def _linger_if_unread(self, cycle: RequestResponseCycle) -> None:
        if cycle.more_body and not cycle.keep_alive:
            self._lingers = cycle.keep_alive = True

    @override
    def on_response_complete(self) -> None:
        if not self._lingers:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.transport.write_eof()
        self.flow.resume_reading()
        self._set_deadline(LINGER_SECONDS_MAX, "rest")

    @override
    def on_message_complete(self) -> None:
        if not self._would_upgrade:
            super().on_message_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        self._body_bytes += len(body)
        self._body_at = self.loop.time()
        super().on_body(body)

    def _watch(self) -> None:
        """Set the deadline for what the client has to send next, if there is anything.

        A request that comes in one piece needs no timer.
        """
        if self.transport.is_closing():
            self._forget_deadline()
        elif self._waits_for_head():
            # More bytes do not extend this deadline.
            if self._deadline is None or self._deadline_of != "head":
                self._set_deadline(HEAD_SECONDS_MAX, "head")
        elif self._waits_for_body():
            if self._deadline is None or self._deadline_of != "body":
                self._begin_window(0)
        else:
            self._forget_deadline()

    def _waits_for_head(self) -> bool:
        if self._reading_head:
            return True
        # The keep-alive timeout runs between two requests. Empty lines end it and begin none.
        return self.cycle.response_complete and self.timeout_keep_alive_task is None

    def _waits_for_body(self) -> bool:
        cycle: RequestResponseCycle = self.cycle
        return cycle.more_body and not cycle.response_started

    def _begin_window(self, begin: int | None) -> None:
        """Begin a body window that counts from byte `begin`; with None it has no minimum."""
        self._window_start = begin
        self._body_at = self.loop.time()
        self._set_deadline(self._window_seconds, "body")

    @property
    def _holds_back(self) -> bool:
        """Whether the gateway itself has stopped reading."""
        return self.flow.read_paused or bool(self.cycle.body)

    @property
    def _window_seconds(self) -> float:
        settings: Settings = self.config.app.state.settings  # type: ignore[union-attr] # `create_app`'s
        return settings.external_run_timeout_seconds if self._is_streamed else BODY_WINDOW_SECONDS

    @property
    def _is_streamed(self) -> bool:
        return STREAMED_BODY in self.cycle.scope["extensions"]

    def _set_deadline(self, seconds: float, awaited: Awaited) -> None:
        self._forget_deadline()
        self._deadline_of = awaited
        self._deadline = self.loop.call_later(seconds, self._is_late)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._deadline_of == "rest":
            self.transport.close()
        elif self._deadline_of == "head":
            if self._head_count == 0 or not self._reading_head:
                # A connection without a request, perhaps opened in advance.
                self._request_log.connections_cut["unused"] += 1
                self.transport.close()
            else:
                self._request_log.connections_cut["head_late"] += 1
                self.send_400_response(
                    f"The request's head was not complete after {HEAD_SECONDS_MAX:g} s."
                )
        elif self._waits_for_body():
            self._end_window()

    def _end_window(self) -> None:
        if self._holds_back:
            # The client could not have sent more, now and for part of the next window.
            self._begin_window(None)
            return
        if self._is_streamed:
            left = self._body_at + self._window_seconds - self.loop.time()
            if left > 0:
                self._set_deadline(left, "body")
                return
            arrived = 0
        elif self._window_start is None:
            arrived = BODY_WINDOW_BYTES_MIN
        else:
            arrived = self._body_bytes - self._window_start
        if arrived >= BODY_WINDOW_BYTES_MIN:
            self._begin_window(self._body_bytes)
        elif arrived:
            self._request_log.connections_cut["body_slow"] += 1
            self.send_400_response(
                f"Fewer than {BODY_WINDOW_BYTES_MIN} bytes of the request's body arrived in "
                f"{self._window_seconds:g} s."
            )
        else:
            self._request_log.connections_cut["body_stalled"] += 1
            self.send_400_response(
                f"No byte of the request's body arrived for {self._window_seconds:g} s."
            )

    @property
    def _request_log(self) -> RequestLog:
        request_log: RequestLog = self.config.app.state.request_log  # type: ignore[union-attr] # `create_app`'s
        return request_log

    @property
    def _limits(self) -> ConnectionLimits:
        limits: ConnectionLimits = self.config.app.state.connection_limits  # type: ignore[union-attr] # `create_app`'s
        return limits

    @override
    def send_400_response(self, msg: str) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            # An answer is under way; nothing else can be sent.
            self._request_log.connections_cut["mid_answer"] += 1
            self.transport.close()
            return
        self._answer_and_close("malformed", self._refusal or msg)

    def _answer_and_close(self, code: str, detail: str) -> None:
        """Answer with a problem without calling the app."""
        self._request_log.problems[code] += 1
        self.transport.write(encode_refusal(code, detail, self.server_state.default_headers))
        self.transport.close()

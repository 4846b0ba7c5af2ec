"""The `send` of an answer that is, or may be, the last one of its connection."""

import weakref
from collections.abc import Callable

from starlette.types import Message, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def final_send(
    cycle: RequestResponseCycle,
    linger: Callable[[], Callable[[RequestResponseCycle], None] | None],
) -> Send:
    """Return a `send` that delimits the answer for its HTTP version and lets the rest come in.

    * To a client of HTTP/1.0, which has no chunks, the end of the connection is the end of an
      answer without `Content-Length` (RFC 9112, 6.1).
    * A connection whose client may or may not send the body after a final answer to
      `Expect: 100-continue` is closed after that answer (RFC 9110, 10.1.1).

    Args:
        cycle: The request's cycle. The function refers to it weakly: the cycle holds the function.
        linger: A weak reference to what is called before the last message.
    """
    cycle_ref = weakref.ref(cycle)
    has_chunks = cycle.scope["http_version"] != "1.0"
    has_end = True

    async def send(message: Message) -> None:
        nonlocal has_end
        cycle = cycle_ref()
        assert cycle is not None  # its own task sends
        if message["type"] == "http.response.start":
            if cycle.waiting_for_100_continue and cycle.more_body:
                cycle.keep_alive = False
            has_end = has_chunks or any(
                name.lower() == b"content-length" for name, _ in message["headers"]
            )
            cycle.chunked_encoding = None if has_end else False
        else:
            if not has_end:
                cycle.expected_content_length = len(message.get("body", b""))
            is_last = not message.get("more_body", False)
            if is_last and (call := linger()) is not None:
                call(cycle)
        # The same messages under another type name.
        await RequestResponseCycle.send(cycle, message)  # type: ignore[arg-type]

    return send

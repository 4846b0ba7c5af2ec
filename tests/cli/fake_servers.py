"""Small fake servers, and a proxy that loses answers."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler

from typing_extensions import override

from tests.support.http_servers import http_server

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def fake_server(answer: Answer) -> Iterator[str]:
    """Answer every request with `answer`; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def do_POST(self) -> None:
            # Read first: closing with unread bytes would reset the connection.
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http_server(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def stream(*frames: str) -> Answer:
    """Return an answer: a stream of these frames, which then ends."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "text/event-stream")
        request.end_headers()
        for frame in frames:
            request.wfile.write(frame.encode())

    return answer


@contextmanager
def lossy_proxy(port: int, lose: int) -> Iterator[str]:
    """Pass requests on to `port`, but lose the first `lose` answers to a `POST`.

    What a client learns is a connection that broke after it had sent everything: it cannot know
    whether the request was carried out.
    """
    left = [lose]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                ours, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=carry, args=(ours,), daemon=True).start()

    def carry(ours: socket.socket) -> None:
        # One side may go first, and then the other has nobody to tell.
        with suppress(OSError), ours, socket.create_connection(("127.0.0.1", port)) as theirs:
            asked = [b""]
            threading.Thread(target=ask, args=(ours, theirs, asked), daemon=True).start()
            while chunk := theirs.recv(65536):
                if left[0] > 0 and asked[0].startswith(b"POST "):
                    left[0] -= 1
                    # Not close alone: that waits for the thread that is reading.
                    ours.shutdown(socket.SHUT_RDWR)
                    return
                ours.sendall(chunk)

    def ask(ours: socket.socket, theirs: socket.socket, asked: list[bytes]) -> None:
        with suppress(OSError):
            while chunk := ours.recv(65536):
                # The requests of a test are small: each comes with its method first, or is a body.
                asked[0] = chunk if b" HTTP/1.1\r\n" in chunk else asked[0]
                theirs.sendall(chunk)
            theirs.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert left == [0], "there were fewer answers than were to be lost"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)

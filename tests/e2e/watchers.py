"""Clients that others wrote, each behind the same three verbs, so that one test holds for all.

A watcher follows one session's stream from its start, comes back by itself when the stream is lost,
and ends at the `custom` event named `end`.
"""

import json
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx
import httpx_sse
from typing_extensions import override

from tests.processes import REPOSITORY, environment, lacking, program
from tests.support.chromium import page_at
from tests.support.clients import local_client
from tests.support.waiting import until

NODE_DIR = REPOSITORY / "tests" / "e2e" / "node"
# Between two tries of the clients that leave coming back to their user.
PAUSE_SECONDS = 0.1


class Seen(NamedTuple):
    """One message as a client handed it out."""

    id: str
    data: str

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.data)
        return event

    @property
    def is_end(self) -> bool:
        return self.event.get("name") == "end" and self.event["type"] == "custom"


class Watcher(ABC):
    """One client at work.

    Attributes:
        seen: Every message it has handed out so far, control frames included, in order.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    @abstractmethod
    def start(self, url: str) -> None:
        """Begins to watch."""

    @abstractmethod
    def stop(self) -> None:
        """Release everything; called once, also after a failure."""

    def wait_for_end(self) -> None:
        """Wait until it has seen the end."""
        until(lambda: self.seen and self.seen[-1].is_end, "the client has seen the end")


class ThreadWatcher(Watcher):
    """A client that follows one stream to its end; coming back is a loop around it."""

    def __init__(self) -> None:
        super().__init__()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watcher")
        self._url = ""

    @override
    def start(self, url: str) -> None:
        self._url = url
        self._thread.start()

    @override
    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _follow(self) -> None:
        while not self._over.is_set():
            for seen in self.one_stream(self._url, self.seen[-1].id if self.seen else None):
                self.seen.append(seen)
                if seen.is_end or self._over.is_set():
                    return
            self._over.wait(PAUSE_SECONDS)

    @abstractmethod
    def one_stream(self, url: str, last_id: str | None) -> Iterator[Seen]:
        """Yield the messages of one connection, until it ends in whatever way."""


class Curl(ThreadWatcher):
    """curl: what a shell script sees. Frames are read as the contract says they look."""

    def __init__(self) -> None:
        super().__init__()
        self._curl = program("curl")
        self._process: subprocess.Popen[bytes] | None = None

    @override
    def one_stream(self, url: str, last_id: str | None) -> Iterator[Seen]:
        resume = ["--header", f"Last-Event-ID: {last_id}"] if last_id else []
        with subprocess.Popen(
            [self._curl, "--silent", "--no-buffer", "--fail", *resume, url],
            env=environment(),
            stdout=subprocess.PIPE,
        ) as self._process:
            assert self._process.stdout is not None
            fields: dict[str, str] = {}
            for line in self._process.stdout:
                name, colon, value = line.decode().removesuffix("\n").partition(": ")
                if name and colon:
                    fields[name] = value
                elif not colon and "data" in fields:
                    # A frame without an id of its own (`goodbye`) stands where the last one stood.
                    yield Seen(fields["id"], fields.pop("data"))
            self._process.kill()

    @override
    def stop(self) -> None:
        self._over.set()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        super().stop()


class OverHttpx(ThreadWatcher):
    """A Python package that reads through an httpx client."""

    breaks: tuple[type[Exception], ...] = (httpx.TransportError,)
    """What a stream that breaks off raises."""

    def __init__(self) -> None:
        super().__init__()
        self._http = local_client(timeout=60)

    def read(self, url: str, last_id: str | None) -> Iterator[Seen]:
        """Read one stream."""
        raise NotImplementedError

    @override
    def one_stream(self, url: str, last_id: str | None) -> Iterator[Seen]:
        try:
            yield from self.read(url, last_id)
        except self.breaks:
            return
        except Exception:
            # Closed under it by `stop`: httpx has no one error for that.
            if not self._over.is_set():
                raise

    @override
    def stop(self) -> None:
        self._over.set()
        if not (self.seen and self.seen[-1].is_end):
            self._http.close()  # it waits for bytes that nobody will send
        super().stop()
        self._http.close()


class HttpxSse(OverHttpx):
    """httpx-sse, the usual client in Python programs."""

    breaks = (httpx.TransportError, httpx_sse.SSEError)

    @override
    def read(self, url: str, last_id: str | None) -> Iterator[Seen]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with httpx_sse.connect_sse(self._http, "GET", url, headers=headers) as source:
            for message in source.iter_sse():
                yield Seen(message.id, message.data)


class NodeEventSource(Watcher):
    """An npm package, which comes back by itself.

    Args:
        package: `eventsource`, or `event-source-polyfill`, which many pages use where they have to
            send a credential: it says where it was in the URL, not in a header.
    """

    def __init__(self, package: str = "eventsource") -> None:
        super().__init__()
        self._package = package
        self._node = program("node")
        if not (NODE_DIR / "node_modules" / package).is_dir():
            lacking("the npm packages of tests/e2e/node (`make test` installs them where npm is)")
        self._thread = threading.Thread(target=self._read, name="watcher")

    @override
    def start(self, url: str) -> None:
        self._process = subprocess.Popen(
            [self._node, "follow.mjs", url, self._package],
            cwd=NODE_DIR,
            env=environment(),
            stdout=subprocess.PIPE,
        )
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self.seen.append(Seen(**json.loads(line)))

    @override
    def stop(self) -> None:
        self._process.kill()
        self._process.wait(60)
        self._thread.join(60)


class Chromium(Watcher):
    """A real browser: its own EventSource, in a page of another origin than the gateway's."""

    def __init__(self) -> None:
        super().__init__()
        self._running = ExitStack()
        self._server = _page_server(self.seen)
        self._thread = threading.Thread(target=self._server.serve_forever, name="page")

    @property
    def origin(self) -> str:
        """The page's origin, which the gateway has to allow."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @override
    def start(self, url: str) -> None:
        self._thread.start()
        self._running.enter_context(page_at(f"{self.origin}/?{httpx.QueryParams({'stream': url})}"))

    @override
    def stop(self) -> None:
        try:
            self._running.close()
        finally:
            self._server.shutdown()
            self._thread.join(60)
            self._server.server_close()


# Each message is handed over before the next: so the order here is the order in which the browser
# gave them out. `gave-up` is what EventSource does after an answer that is no stream.
_PAGE = b"""<!doctype html><meta charset="utf-8"><title>watcher</title><script>
const source = new EventSource(new URLSearchParams(location.search).get("stream"));
let last = Promise.resolve();
const report = (body) => {
  last = last.then(() => fetch("/seen", { method: "POST", body: JSON.stringify(body) }));
};
source.onmessage = (message) => {
  report({ id: message.lastEventId, data: message.data });
  const event = JSON.parse(message.data);
  if (event.type === "custom" && event.name === "end") source.close();
};
source.onerror = () => {
  if (source.readyState === EventSource.CLOSED) {
    report({ id: "", data: JSON.stringify({ type: "gave-up" }) });
  }
};
</script>"""


def _page_server(seen: list[Seen]) -> ThreadingHTTPServer:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(_PAGE if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(Seen(**json.loads(body)))
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        @override
        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Page)

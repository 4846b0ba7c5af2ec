"""The official clients of Durable Streams, unchanged, as watchers of a session.

What they have seen has the offset behind it as its id: where such a client resumes.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from typing import Any, Literal

import durable_streams
import httpx
from typing_extensions import override

from tests.e2e.watchers import NODE_DIR, OverHttpx, Seen, Watcher
from tests.processes import environment, lacking, program

Live = Literal["false", "long-poll", "sse"]


def read_all(http: httpx.Client, url: str, offset: str = "-1") -> list[dict[str, Any]]:
    """Return what the Python client reads from an offset to the end."""
    with durable_streams.stream(url, offset=offset, live=False, client=http) as response:
        return list(response.read_json())


class NpmClient(Watcher):
    """`@durable-streams/client` of npm."""

    def __init__(self, live: Live, begin: str = "-1") -> None:
        super().__init__()
        self._arguments = (live, begin)
        self._node = program("node")
        if not (NODE_DIR / "node_modules" / "@durable-streams" / "client").is_dir():
            lacking("the npm packages of tests/e2e/node (`make test` installs them where npm is)")
        self._thread = threading.Thread(target=self._read, name="watcher")

    @override
    def start(self, url: str) -> None:
        self._process = subprocess.Popen(
            [self._node, "durable_stream.mjs", url, *self._arguments],
            cwd=NODE_DIR,
            env=environment(),
            stdout=subprocess.PIPE,
        )
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                batch = json.loads(line)
                self.seen += [Seen(batch["offset"], json.dumps(one)) for one in batch["items"]]

    @override
    def stop(self) -> None:
        self._process.kill()
        self._process.wait(60)
        self._thread.join(60)


class PythonClient(OverHttpx):
    """`durable-streams` of PyPI. It leaves coming back to its user, also in the live modes."""

    def __init__(self, live: Live, begin: str = "-1") -> None:
        super().__init__()
        self._live = live
        self._begin = begin

    @override
    def read(self, url: str, last_id: str | None) -> Iterator[Seen]:
        live: Any = False if self._live == "false" else self._live
        with durable_streams.stream(
            url, offset=last_id or self._begin, live=live, client=self._http
        ) as response:
            for batch in response.iter_events("json"):
                for one in batch.data:
                    yield Seen(batch.next_offset, json.dumps(one))

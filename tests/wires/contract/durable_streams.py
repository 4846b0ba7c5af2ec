"""Durable Streams: read only, so what is said is said natively, and read with official clients."""

from typing import Any, ClassVar, Literal

import durable_streams
from typing_extensions import override

from tests.processes import Gateway
from tests.wires.contract.native import TERMINAL, NativeSpeaker
from tests.wires.contract.processes import node_process


class PythonReader(NativeSpeaker):
    """`durable-streams` of PyPI, over SSE while an answer is made, and catching up besides."""

    mode: ClassVar[Literal["sse", "long-poll"]] = "sse"

    @override
    def read(self, run_id: str) -> bool:
        with self._open(self.mode) as response:
            for frames, batch in enumerate(response.iter_events("json"), 1):
                if self._take(batch.data, batch.next_offset, run_id):
                    return True
                if self.is_cut(frames):
                    return False
        return False

    @override
    def catch_up(self) -> None:
        with self._open(False) as response:
            for batch in response.iter_events("json"):
                self._take(batch.data, batch.next_offset, None)

    def _open(self, live: Literal["sse", "long-poll", False]) -> Any:
        return durable_streams.stream(
            f"{self.gateway.url}/api/v1/ds/{self.session_id}",
            offset=self.position or "-1",
            live=live,
            client=self.gateway.http,
        )

    def _take(self, events: Any, offset: str, run_id: str | None) -> bool:
        ended = False
        for event in events:
            self.folding.take(event)
            ended |= event["type"] in TERMINAL and event["run_id"] == run_id
        self.position = offset
        if ended:
            self.run_id = None
        return ended


class LongPollReader(PythonReader):
    """`durable-streams` of PyPI, over long polls."""

    mode = "long-poll"


class NpmReader(PythonReader):
    """`@durable-streams/client` of npm, over SSE."""

    is_httpx = False

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        super().__init__(gateway, session_id)
        self._node = node_process("./durable_streams_speaker.mjs")
        self._node.call(session_id, "make")

    @override
    def read(self, run_id: str) -> bool:
        batches = self._read(self.mode, run_id)
        if len(batches) == self.cut_after:
            self.cut_after = None
        ended = [self._take(one["items"], one["offset"], run_id) for one in batches]
        return any(ended)

    @override
    def catch_up(self) -> None:
        for one in self._read(False, None):
            self._take(one["items"], one["offset"], None)

    @override
    def close(self) -> None:
        self._node.call(self.session_id, "drop")

    def _read(self, live: Literal["sse", "long-poll", False], run_id: str | None) -> Any:
        return self._node.call(
            self.session_id,
            "read",
            url=f"{self.gateway.url}/api/v1/ds/{self.session_id}",
            offset=self.position or "-1",
            live=live,
            run_id=run_id,
            cut_after=self.cut_after,
        )

"""Durable Streams: read only, so what is said is said natively, and read with official clients."""

from typing import Any, ClassVar, Literal

import durable_streams
from typing_extensions import override

from tests.wires.contract.native import TERMINAL, NativeSpeaker


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

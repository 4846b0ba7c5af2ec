"""The native wire, spoken with httpx: what every other wire is compared with."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import httpx_sse
from typing_extensions import override

from tests.processes import Gateway
from tests.support.clients import local_client
from tests.wires.contract.conversations import File
from tests.wires.contract.folding import Folding
from tests.wires.contract.said import Said
from tests.wires.contract.speaker import Speaker, content_of

TERMINAL = {"complete", "error", "cancelled"}


class NativeSpeaker(Speaker):
    """`POST /chat` and its stream, folded as `docs/how-to/front-ends.md` tells pages to do."""

    is_httpx = True

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        super().__init__(gateway, session_id)
        self.folding = Folding(lambda file_id: content_of(gateway, file_id))
        self.position: str | None = None
        self.run_id: str | None = None

    @override
    def say(self, text: str, files: Sequence[File] = (), tools: Sequence[str] = ()) -> None:
        self._chat({"message": {"role": "user", "content": _content(text, files)}})

    @override
    def settle(self) -> None:
        run_id = self.run_id
        while run_id is not None and not self.read(run_id):
            pass

    @override
    def results(self, results: Mapping[str, str]) -> None:
        messages = [
            {"role": "tool", "tool_call_id": call_id, "content": content}
            for call_id, content in results.items()
        ]
        self._chat({"message": messages})

    @override
    def answer(self, answers: Mapping[str, Any]) -> None:
        self._begin(f"/sessions/{self.session_id}/inputs", {"answers": dict(answers)})

    @override
    def cancel(self) -> None:
        self.gateway.call("POST", f"/sessions/{self.session_id}/cancel")

    @override
    def regenerate(self) -> None:
        self._begin(f"/sessions/{self.session_id}/regenerate", {})

    @override
    def edit(self, number: int, text: str) -> None:
        self.settle()
        message_id = self.folding.user_ids()[number]
        self._chat({"message": text, "edit_message_id": message_id})

    @override
    def reload(self) -> None:
        self.folding = Folding(lambda file_id: content_of(self.gateway, file_id))
        self.position = None
        run_id = self.gateway.call("GET", f"/sessions/{self.session_id}")["active_run_id"]
        self.run_id = run_id

    @override
    def said(self) -> Said:
        self.catch_up()
        return self.folding.said()

    @override
    def customs(self) -> list[tuple[str, Any]]:
        return self.folding.customs

    def _chat(self, body: dict[str, Any]) -> None:
        self._begin("/chat", {"session_id": self.session_id, **body})

    def _begin(self, path: str, body: dict[str, Any]) -> None:
        self.run_id = self.gateway.call("POST", path, json=body)["run_id"]

    def read(self, run_id: str) -> bool:
        """Follow the stream from the last position; return whether the run has ended."""
        query = {"after": self.position or "0"}
        with (
            local_client(timeout=self.gateway.http.timeout) as http,
            httpx_sse.connect_sse(
                http, "GET", f"{self.gateway.url}/api/v1/stream/{self.session_id}", params=query
            ) as source,
        ):
            for frames, frame in enumerate(source.iter_sse(), 1):
                event = json.loads(frame.data)
                if frame.id:
                    self.position = frame.id
                self.folding.take(event)
                if event["type"] in TERMINAL and event["run_id"] == run_id:
                    self.run_id = None
                    return True
                if self.is_cut(frames):
                    return False
        return False

    def catch_up(self) -> None:
        """Take what the log has beyond the last position."""
        while True:
            page = self.gateway.call(
                "GET",
                f"/sessions/{self.session_id}/events",
                params={"after": self.position or "0", "limit": 1000},
            )
            for event in page["events"]:
                self.folding.take(event)
            self.position = page["next"]
            if not page["has_more"]:
                return


def _content(text: str, files: Sequence[File]) -> str | list[dict[str, Any]]:
    if not files:
        return text
    return [
        {"type": "text", "text": text},
        *(
            {
                "type": "image" if file.media_type.startswith("image/") else "file",
                "data": file.data,
                "media_type": file.media_type,
                "name": file.name,
            }
            for file in files
        ),
    ]

"""The AI SDK: `AbstractChat` of several releases, in Node.js (`ai_sdk_speaker.mjs`)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from tests.processes import Gateway
from tests.wires.contract.conversations import File
from tests.wires.contract.processes import node_process
from tests.wires.contract.said import Said, Telling
from tests.wires.contract.speaker import Speaker, content_of

_FILE = re.compile(r".*/api/v1/files/([^/?#]+)")

DENIED = "denied"
"""The result of a denied call: its part has no words for it, only the reason of the approval."""


class AiSdkSpeaker(Speaker):
    """One release of the package `ai`."""

    version: ClassVar[str]
    path: ClassVar[str]
    knows_approvals: ClassVar[bool] = True

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        super().__init__(gateway, session_id)
        self._denied: set[str] = set()
        self._node = node_process("./ai_sdk_speaker.mjs", self.version)
        self._call("make", api=f"{gateway.url}/api/v1{self.path}", session=session_id)

    @override
    def say(self, text: str, files: Sequence[File] = (), tools: Sequence[str] = ()) -> None:
        self._cut()
        shown = [
            {"media_type": file.media_type, "url": file.url, "name": file.name} for file in files
        ]
        self._call("say", text=text, files=shown, tools=list(tools))

    @override
    def settle(self) -> None:
        self._call("settle")

    @override
    def results(self, results: Mapping[str, str]) -> None:
        self._call("results", results=dict(results))

    @override
    def answer(self, answers: Mapping[str, Any]) -> None:
        is_approval = all(isinstance(one, dict) and "approved" in one for one in answers.values())
        if is_approval and self.knows_approvals:
            self._call("approve", answers=dict(answers))
            return
        # This release has no part for it: the page answers by the native route, and is loaded.
        path = f"/sessions/{self.session_id}/inputs"
        self.gateway.call("POST", path, json={"answers": dict(answers)})
        self._call("reload")

    @override
    def cancel(self) -> None:
        self._call("cancel")

    @override
    def regenerate(self) -> None:
        self._call("regenerate")

    @override
    def edit(self, number: int, text: str) -> None:
        self._call("edit", number=number, text=text)

    @override
    def reload(self) -> None:
        self._call("reload")

    @override
    def said(self) -> Said:
        telling = Telling()
        for message in self._call("messages"):
            if message["role"] == "user":
                self._user(telling, message["parts"])
            else:
                for part in message["parts"]:
                    self._part(telling, part)
        return telling.said

    @override
    def customs(self) -> list[tuple[str, Any]]:
        parts = [part for message in self._call("messages") for part in message["parts"]]
        return [
            (part["type"].removeprefix("data-"), part["data"])
            for part in parts
            if part["type"].startswith("data-") and part["type"] != "data-input-required"
        ]

    @override
    def as_seen(self, said: Said) -> Said:
        return [
            (*one[:4], DENIED) if one[0] == "call" and one[1] in self._denied else one
            for one in said
        ]

    @override
    def was_cut(self) -> bool:
        return bool(self._call("was_cut"))

    @override
    def close(self) -> None:
        self._call("drop")

    def _call(self, method: str, **options: Any) -> Any:
        return self._node.call(self.session_id, method, **options)

    def _cut(self) -> None:
        if self.cut_after is not None:
            self._call("cut", after=self.cut_after)
            self.cut_after = None

    def _user(self, telling: Telling, parts: list[dict[str, Any]]) -> None:
        words = "".join(part["text"] for part in parts if part["type"] == "text")
        files = [
            (part["mediaType"], self._content(part["url"]))
            for part in parts
            if part["type"] == "file"
        ]
        telling.user(words, files)

    def _content(self, url: str) -> str:
        if url.startswith("data:"):
            return url.partition(",")[2]
        found = _FILE.match(url)
        assert found, url
        return content_of(self.gateway, found[1])

    def _part(self, telling: Telling, part: dict[str, Any]) -> None:
        kind: str = part["type"]
        if kind == "reasoning":
            telling.words("thinking", part["text"])
        elif kind == "text":
            telling.words("text", part["text"])
        elif "toolCallId" in part:
            name = part["toolName"] if kind == "dynamic-tool" else kind.removeprefix("tool-")
            telling.call(part["toolCallId"], name, part.get("input"))
            if part["state"] == "output-available":
                telling.result(part["toolCallId"], part["output"])
            elif part["state"] == "output-error":
                telling.result(part["toolCallId"], part["errorText"])
            elif part["state"] == "output-denied":
                self._denied.add(part["toolCallId"])
                telling.result(part["toolCallId"], DENIED)


class AiSdk5First(AiSdkSpeaker):
    """The oldest release of 5 that is supported."""

    version = "ai-5.0.34"
    path = "/ai-sdk/chat"
    knows_approvals = False


class AiSdk5(AiSdk5First):
    """The last release of 5."""

    version = "ai-5.0.277"


class AiSdk6First(AiSdkSpeaker):
    """The oldest release of 6 that is supported."""

    version = "ai-6.0.41"
    path = "/ai-sdk/v6/chat"


class AiSdk6(AiSdk6First):
    """The last release of 6."""

    version = "ai-6.0.326"


class AiSdk7(AiSdkSpeaker):
    """The newest release of 7."""

    version = "ai-7.0.173"
    path = "/ai-sdk/v7/chat"

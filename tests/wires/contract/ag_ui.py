"""AG-UI: `HttpAgent` of `@ag-ui/client` in Node.js (`ag_ui_speaker.mjs`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from tests.processes import Gateway
from tests.wires.contract.conversations import File
from tests.wires.contract.processes import node_process
from tests.wires.contract.said import Said, Telling
from tests.wires.contract.speaker import Speaker, content_of

_NO_EDIT = "AG-UI has no edit: a message with a new id is a new turn at the end of the thread"


class AgUiSpeaker(Speaker):
    """A thread of AG-UI."""

    exceptions: ClassVar[Mapping[str, str]] = {
        "edited": _NO_EDIT,
        "edited at the root": _NO_EDIT,
    }

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        super().__init__(gateway, session_id)
        self._node = node_process("./ag_ui_speaker.mjs")
        self._call("make", url=f"{gateway.url}/api/v1/ag-ui/default", session=session_id)

    @override
    def say(self, text: str, files: Sequence[File] = (), tools: Sequence[str] = ()) -> None:
        if self.cut_after is not None:
            self._call("cut", after=self.cut_after)
            self.cut_after = None
        shown = [{"media_type": file.media_type, "data": file.data} for file in files]
        self._call("say", text=text, files=shown, tools=list(tools))

    @override
    def settle(self) -> None:
        self._call("settle")

    @override
    def results(self, results: Mapping[str, str]) -> None:
        self._call("results", results=dict(results))

    @override
    def answer(self, answers: Mapping[str, Any]) -> None:
        self._call("answer", answers=dict(answers))

    @override
    def cancel(self) -> None:
        self._call("cancel")

    @override
    def regenerate(self) -> None:
        self._call("regenerate")

    @override
    def edit(self, number: int, text: str) -> None:
        raise NotImplementedError(_NO_EDIT)

    @override
    def reload(self) -> None:
        self._call("reload")

    @override
    def said(self) -> Said:
        telling = Telling()
        for message in self._call("messages"):
            match message["role"]:
                case "user":
                    self._user(telling, message["content"])
                case "reasoning":
                    telling.words("thinking", message["content"])
                case "assistant":
                    telling.words("text", message.get("content") or "")
                    for call in message.get("toolCalls") or ():
                        function = call["function"]
                        arguments = json.loads(function["arguments"])
                        telling.call(call["id"], function["name"], arguments)
                case "tool":
                    telling.result(message["toolCallId"], message["content"])
                case _:
                    pass
        return telling.said

    @override
    def was_cut(self) -> bool:
        return bool(self._call("was_cut"))

    @override
    def close(self) -> None:
        self._call("drop")

    def _call(self, method: str, **options: Any) -> Any:
        return self._node.call(self.session_id, method, **options)

    def _user(self, telling: Telling, content: str | list[dict[str, Any]]) -> None:
        if isinstance(content, str):
            telling.user(content)
            return
        words = "".join(part["text"] for part in content if part["type"] == "text")
        files = [
            (part["source"].get("mimeType"), self._content(part["source"]))
            for part in content
            if part["type"] != "text"
        ]
        telling.user(words, files)

    def _content(self, source: dict[str, Any]) -> str:
        value: str = source["value"]
        if source["type"] == "data":
            return value
        if "/files/" in value:
            return content_of(self.gateway, value.rpartition("/files/")[2])
        return value

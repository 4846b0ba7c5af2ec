"""OpenAI's Responses and Conversations: the official Python client (`openai_speaker.py`)."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from tests.processes import Gateway
from tests.wires.contract.conversations import File
from tests.wires.contract.processes import ClientProcess, node_process, python_process
from tests.wires.contract.said import Said, Telling
from tests.wires.contract.speaker import Speaker, content_of

_NO_ROOT = "a branch begins behind a response (`previous_response_id`), and before this is none"


class OpenAISpeaker(Speaker):
    """A conversation of the protocol, with streamed responses, at the Python client."""

    exceptions: ClassVar[Mapping[str, str]] = {
        "regenerated": _NO_ROOT,
        "regenerated tools": _NO_ROOT,
        "edited at the root": _NO_ROOT,
    }

    def __init__(self, gateway: Gateway, session_id: str) -> None:
        super().__init__(gateway, session_id)
        self._name = session_id
        self._answered: str | None = None
        self._process = self.start()
        exists = gateway.http.get(f"/sessions/{session_id}").status_code != 404
        self._call(
            "make",
            base_url=f"{gateway.url}/api/v1/openai/v1",
            conversation=f"conv_{session_id}" if exists else None,
        )
        self.session_id = self._call("name").removeprefix("conv_")

    def start(self) -> ClientProcess:
        """Return the process of the client."""
        return python_process("openai_speaker.py")

    @override
    def say(self, text: str, files: Sequence[File] = (), tools: Sequence[str] = ()) -> None:
        if self.cut_after is not None:
            self._call("cut", after=self.cut_after)
            self.cut_after = None
        parts = [
            {"type": "input_image", "detail": "auto", "image_url": file.url}
            if file.media_type.startswith("image/")
            else {"type": "input_file", "filename": file.name, "file_data": file.url}
            for file in files
        ]
        content = [{"type": "input_text", "text": text}, *parts] if parts else text
        self._call("say", content=content, tools=list(tools))

    @override
    def settle(self) -> None:
        if self._answered is not None:
            path = f"/sessions/{self.session_id}/runs/{self._answered}"
            self.gateway.call("GET", path, headers={"Prefer": "wait=60"})
            self._answered = None
            self._call("reload")
        self._call("settle")

    @override
    def results(self, results: Mapping[str, str]) -> None:
        self._call("results", results=dict(results))

    @override
    def answer(self, answers: Mapping[str, Any]) -> None:
        if all(isinstance(one, dict) and "approved" in one for one in answers.values()):
            self._call("approve", answers=dict(answers))
            return
        # The protocol has approvals alone: other questions are answered by the native route.
        path = f"/sessions/{self.session_id}/inputs"
        taken = self.gateway.call("POST", path, json={"answers": dict(answers)})
        self._answered = taken["run_id"]

    @override
    def cancel(self) -> None:
        self._call("cancel")

    @override
    def regenerate(self) -> None:
        raise NotImplementedError(_NO_ROOT)

    @override
    def edit(self, number: int, text: str) -> None:
        self._call("edit", content=text, before=number - 1)

    @override
    def reload(self) -> None:
        self._call("reload")

    @override
    def said(self) -> Said:
        telling = Telling()
        for item in self._call("shown"):
            self._item(telling, item)
        return self._without_ids(telling.said)

    @override
    def as_seen(self, said: Said) -> Said:
        return self._without_ids(said)

    @override
    def was_cut(self) -> bool:
        return bool(self._call("was_cut"))

    @override
    def close(self) -> None:
        self._call("drop")

    @staticmethod
    def _without_ids(said: Said) -> Said:
        """Leave out what the protocol does not say: ids of an agent's own calls, types of files."""
        found: Said = []
        for one in said:
            if one[0] == "call":
                found.append(("call", None, *one[2:]))
            elif one[0] == "user":
                found.append((*one[:2], tuple(content for _, content in one[2])))
            else:
                found.append(one)
        return found

    def _call(self, method: str, **options: Any) -> Any:
        return self._process.call(self._name, method, **options)

    def _item(self, telling: Telling, item: dict[str, Any]) -> None:
        match item.get("type", "message"):
            case "message" if item["role"] == "user":
                self._user(telling, item["content"])
            case "message":
                telling.words("text", "".join(part["text"] for part in item["content"]))
            case "reasoning":
                telling.words("thinking", "".join(part["text"] for part in item["summary"]))
            case "function_call":
                telling.call(item["call_id"], item["name"], json.loads(item["arguments"]))
            case "function_call_output":
                telling.result(item["call_id"], item["output"])
            case "mcp_call":
                given = [item["output"]] if item["output"] is not None else []
                if telling.has(item["id"]):  # people were asked about it, and it went on
                    telling.result(item["id"], *given)
                else:
                    telling.call(item["id"], item["name"], json.loads(item["arguments"]), *given)
            case _:
                pass

    def _user(self, telling: Telling, content: str | list[dict[str, Any]]) -> None:
        if isinstance(content, str):
            telling.user(content)
            return
        words = "".join(part["text"] for part in content if part["type"] == "input_text")
        files = [("", self._content(part)) for part in content if part["type"] != "input_text"]
        telling.user(words, files)

    def _content(self, part: dict[str, Any]) -> str:
        if part.get("file_id"):
            return content_of(self.gateway, part["file_id"])
        url: str = part.get("image_url") or part.get("file_data") or part.get("file_url") or ""
        return url.partition(",")[2]


class OpenAINodeSpeaker(OpenAISpeaker):
    """The same at the Node.js client."""

    @override
    def start(self) -> ClientProcess:
        return node_process("./openai_speaker.mjs")

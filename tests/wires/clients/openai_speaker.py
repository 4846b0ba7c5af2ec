"""One person at the official Python client of OpenAI, unchanged; it runs in `.venv/wires`.

    python openai_speaker.py

stdin and stdout are those of `tests/wires/node/speak.mjs`: lines of calls, lines of results. What a
program does besides: it keeps the id of its last response, and retrieves that from where it was
when its connection is lost.
"""

import json
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx2  # type: ignore[import-not-found]
import openai

RETRIES_MAX = 20
SECONDS = 60


class LostError(Exception):
    """The connection was cut by the test."""


LOST = (LostError, httpx2.TransportError, openai.APIConnectionError)


@cache
def client_of(base_url: str) -> openai.OpenAI:
    """Return the client of a gateway; making one takes 30 ms, to read its authorities."""
    return openai.OpenAI(base_url=base_url, api_key="none", timeout=SECONDS)


@dataclass
class View:
    """What a program knows of one response; one that was left may still be read by its thread."""

    number: int = -1
    seen: int = 0
    texts: dict[tuple[int, int], str] = field(default_factory=dict)
    failure: str | None = None
    is_left: bool = False


class Speaker:
    """One conversation; it holds what it has sent, and the output of each response."""

    def __init__(self, base_url: str, conversation: str | None) -> None:
        self.client = client_of(base_url)
        self.conversation = conversation or self.client.conversations.create().id
        self.items: list[dict[str, Any]] = []
        self.responses: list[str] = []
        self.response: str | None = None
        self.cut_after: int | None = None
        self.view = View()
        self.thread: threading.Thread | None = None

    def name(self) -> str:
        """Return the conversation's id."""
        return self.conversation

    def was_cut(self) -> bool:
        """Return whether a stream was cut."""
        return self.cut_after is None

    # -- verbs --------------------------------------------------------------------------------

    def say(self, content: Any, tools: list[str]) -> None:
        """Send a message of the user."""
        self.tools = [
            {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False}
            for name in tools
        ]
        self._begin([{"role": "user", "content": content}])

    def results(self, results: dict[str, str]) -> None:
        """Send results of the client's functions."""
        self._begin(
            [
                {"type": "function_call_output", "call_id": call_id, "output": output}
                for call_id, output in results.items()
            ]
        )

    def approve(self, answers: dict[str, dict[str, Any]]) -> None:
        """Answer approvals."""
        asked = {one["id"] for one in self.items if one.get("type") == "mcp_approval_request"}
        given = []
        for name, answer in answers.items():
            [request] = [one for one in asked if one.endswith(name)]
            response = {
                "type": "mcp_approval_response",
                "approval_request_id": request,
                "approve": answer["approved"],
            }
            if "reason" in answer:
                response["reason"] = answer["reason"]
            given.append(response)
        self._begin(given)

    def edit(self, content: str, before: int) -> None:
        """Say something else behind the response with this number."""
        kept = self.responses[: before + 1]
        end = next(n for n, one in enumerate(self.items) if one.get("response") == kept[-1])
        del self.items[end + 1 :]
        self.responses = kept
        self._begin([{"role": "user", "content": content}], previous=kept[-1])

    def cancel(self) -> None:
        """Cancel the response."""
        self._until_known()
        assert self.response is not None
        self.client.responses.cancel(self.response)

    def reload(self) -> None:
        """Begin again, with the ids of the conversation and of the last response."""
        response = self.response
        self._leave()
        if response is not None:
            self._spawn(lambda view: self._follow(view, response), then_load=True)
        else:
            self._spawn(lambda view: None, then_load=True)

    def settle(self) -> None:
        """Wait for the end of what was begun."""
        assert self.thread is not None
        self.thread.join(SECONDS)
        assert not self.thread.is_alive(), "the client waits in vain"
        if self.view.failure is not None:
            raise RuntimeError(self.view.failure)

    def shown(self) -> list[dict[str, Any]]:
        """Return all items."""
        return [one for one in self.items if "response" not in one]

    # -- streams ------------------------------------------------------------------------------

    def _begin(self, given: list[dict[str, Any]], previous: str | None = None) -> None:
        self.items += given
        self._leave()
        self.response = None
        place: dict[str, Any] = {"conversation": self.conversation}
        if previous is not None:
            place = {"previous_response_id": previous}

        def create(view: View) -> None:
            try:
                stream = self.client.responses.create(
                    model="default", input=given, tools=self.tools, stream=True, **place
                )
                if self._read(view, stream):
                    return
            except LOST:
                pass
            assert self.response is not None, "lost before it had begun"
            self._follow(view, self.response)

        self._spawn(create)

    def _leave(self) -> None:
        self.view.is_left = True
        self.view = View()

    def _spawn(self, work: Callable[[View], None], *, then_load: bool = False) -> None:
        view = self.view

        def run() -> None:
            try:
                work(view)
                if then_load:
                    page = self.client.conversations.items.list(
                        self.conversation, order="asc", limit=100
                    )
                    self.items = [one.model_dump(mode="json", warnings=False) for one in page]
            except Exception:  # noqa: BLE001 - the test gets it
                view.failure = traceback.format_exc()

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def _follow(self, view: View, response: str) -> None:
        for _ in range(RETRIES_MAX):
            try:
                after = {"starting_after": view.number} if view.number >= 0 else {}
                stream = self.client.responses.retrieve(response, stream=True, **after)
                if self._read(view, stream):
                    return
            except LOST:
                continue
        raise RuntimeError("never whole")

    def _read(self, view: View, stream: Any) -> bool:
        with stream:
            for event in stream:
                if view.is_left:
                    return True
                view.seen += 1
                if event.sequence_number <= view.number:
                    raise RuntimeError(f"{event.sequence_number} behind {view.number}")
                view.number = event.sequence_number
                if self._take(view, event):
                    return True
                if self.cut_after == view.seen:
                    self.cut_after = None
                    raise LostError
        return False

    def _take(self, view: View, event: Any) -> bool:
        match event.type:
            case "response.created" | "response.queued" | "response.in_progress":
                self.response = event.response.id
            case "response.output_text.delta":
                place = (event.output_index, event.content_index)
                view.texts[place] = view.texts.get(place, "") + event.delta
            case "response.output_text.done":
                said = view.texts.get((event.output_index, event.content_index), event.text)
                if said != event.text:
                    raise RuntimeError(f"deltas said {said!r} and not {event.text!r}")
            case (
                "response.completed"
                | "response.failed"
                | "response.incomplete"
                | "response.cancelled"
            ):
                self._ended(event.response)
                return True
            case _:
                pass
        return False

    def _ended(self, response: Any) -> None:
        self.items += [one.model_dump(mode="json", warnings=False) for one in response.output]
        self.items.append({"response": response.id})
        self.responses.append(response.id)

    def _until_known(self) -> None:
        while self.response is None and self.thread is not None and self.thread.is_alive():
            self.thread.join(0.01)


def main() -> None:
    """Answer calls until stdin ends."""
    speakers: dict[str, Speaker] = {}
    for line in sys.stdin:
        call = json.loads(line)
        name, method, options = call["speaker"], call["method"], call["options"]
        try:
            result: Any = None
            if method == "make":
                speakers[name] = Speaker(**options)
            elif method == "drop":
                del speakers[name]
            elif method == "cut":
                speakers[name].cut_after = options["after"]
            else:
                result = getattr(speakers[name], method)(**options)
            answer = {"id": call["id"], "result": result}
        except Exception:  # noqa: BLE001 - the test gets it
            answer = {"id": call["id"], "failure": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

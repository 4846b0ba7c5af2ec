"""A front end's whole life: chat, stream, lose the network, come back, and branch off.

Needs a gateway (`make serve` in another terminal) and httpx. Run it from the repository:

    .venv/bin/python examples/gateway_integration.py
"""

import json
import os
from collections.abc import Iterator

import httpx

GATEWAY = os.environ.get("BAMBOO_URL", "http://127.0.0.1:8080")


class FrontEnd:
    """What a page would hold: the messages, and the id of the last event it was shown."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self.messages: dict[str, str] = {}
        self.last_id: str | None = None

    def load(self, session_id: str) -> str:
        """Load the latest messages; return where the stream begins so that nothing is missed."""
        path = f"/api/v1/sessions/{session_id}/messages?order=desc"
        page = self.http.get(path).raise_for_status().json()
        self.messages = {said["id"]: text_of(said) for said in reversed(page["messages"])}
        self.last_id = None
        return page["stream_url"]

    def watch(self, url: str) -> Iterator[dict]:
        """Yield the events from where it left off, and remember each as it comes."""
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        url = self.http.base_url.join(url)  # it begins with the path of the base, if that has one
        with self.http.stream("GET", url, headers=headers) as stream:
            if stream.status_code == httpx.codes.NO_CONTENT:
                return  # there is nothing more to come
            stream.raise_for_status()
            event_id = None
            for line in stream.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    event_id = value
                elif name == "data":
                    self.last_id = event_id
                    event = json.loads(value)
                    self.apply(event)
                    yield event

    def apply(self, event: dict) -> None:
        """Show an event: deltas add to a message, a whole message takes their place."""
        if event["type"] == "token":
            message_id = event["message_id"]
            self.messages[message_id] = self.messages.get(message_id, "") + event["content"]
        elif event["type"] == "message":
            self.messages[event["message_id"]] = text_of(event["message"])


def text_of(message: dict) -> str:
    if isinstance(message["content"], str):
        return message["content"]
    return "".join(part.get("text", "") for part in message["content"] if part["type"] == "text")


def main() -> None:
    with httpx.Client(base_url=GATEWAY, timeout=60) as http:
        page = FrontEnd(http)
        # The key makes the request safe to repeat: a lost answer never means two turns.
        turn = http.post(
            "/api/v1/chat",
            json={"message": "Tell me about bamboo", "options": {"delay_ms": 10}},
            headers={"Idempotency-Key": "turn-" + os.urandom(8).hex()},
        )
        turn = turn.raise_for_status().json()
        session_id = turn["session_id"]
        stream_url = turn["stream_url"] + "&until=complete"

        seen = []
        for event in page.watch(stream_url):
            seen.append(event)
            if event["type"] == "token" and len(seen) > 12:
                print(f"The network is lost in mid-sentence, at {page.last_id}.")
                break

        seen += page.watch(stream_url)
        numbers = [event["seq"] for event in seen if "seq" in event]
        assert numbers == sorted(set(numbers)), "each event once, in order"
        print(f"Back again: {len(numbers)} events, none missing, none twice.")

        shown = dict(page.messages)
        page.load(session_id)
        assert page.messages == shown, "what was streamed is what a reload shows"

        child = http.post(f"/api/v1/sessions/{session_id}/fork", json={"new_name": "Another way"})
        child = child.raise_for_status().json()
        other = {"session_id": child["id"], "message": "Go on", "options": {"delay_ms": 0}}
        http.post("/api/v1/chat", json=other, headers={"Prefer": "wait=30"}).raise_for_status()
        page.load(child["id"])
        print(f"The branch {child['title']!r} has {len(page.messages)} messages,", end=" ")
        print(f"the conversation it came from {len(shown)}.")


if __name__ == "__main__":
    main()

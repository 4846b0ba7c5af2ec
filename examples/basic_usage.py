"""The first five minutes: say something, watch the answer arrive, read the conversation.

Needs a gateway (`make serve` in another terminal) and httpx. Run it from the repository:

    .venv/bin/python examples/basic_usage.py

BAMBOO_URL says where the gateway is, if not at http://127.0.0.1:8080.
"""

import json
import os

import httpx

GATEWAY = os.environ.get("BAMBOO_URL", "http://127.0.0.1:8080") + "/api/v1"


def main() -> None:
    with httpx.Client(base_url=GATEWAY, timeout=60) as gateway:
        # A chat without a session begins one. With this Accept header the answer is the stream of
        # everything that happens until the run has ended.
        question = {"message": "How many words are these?", "options": {"delay_ms": 5}}
        headers = {"Accept": "text/event-stream"}
        with gateway.stream("POST", "/chat", json=question, headers=headers) as stream:
            stream.raise_for_status()
            session_id = stream.headers["session-id"]
            for line in stream.iter_lines():
                if line.startswith("data: "):
                    show(json.loads(line.removeprefix("data: ")))

        # Scripts may wait for the whole answer instead.
        question = {"session_id": session_id, "message": "And these?", "options": {"delay_ms": 0}}
        answer = gateway.post("/chat", json=question, headers={"Prefer": "wait=30"})
        print("\n\nThe second answer:", answer.raise_for_status().json()["message"]["content"])

        page = gateway.get(f"/sessions/{session_id}/messages").raise_for_status().json()
        print(f"\nThe conversation {session_id}:")
        for message in page["messages"]:
            print(f"  {message['role']:<10}{str(message['content'])[:60]}")


def show(event: dict) -> None:
    match event["type"]:
        case "token":
            print(event["content"], end="", flush=True)
        case "tool_start":
            print(f"\n[{event['tool_name']} {json.dumps(event['arguments'])}]")
        case "error":
            print(f"\n[failed: {event['message']}]")


if __name__ == "__main__":
    main()

"""A conversation with the Python client: talk, watch, ask again, answer what the agent asks.

.venv/bin/python examples/python_client.py
"""

import os

from bamboo_gateway_client import Gateway, RunFailedError, text_of

with Gateway(
    os.environ.get("BAMBOO_URL", "http://127.0.0.1:8080"), os.environ.get("BAMBOO_API_KEY")
) as gateway:
    session = gateway.sessions.create(title="From Python")

    # A chat starts a run. Its events come one by one; lost connections are none of our business.
    run = session.chat("How many words are these?")
    for event in run:
        match event["type"]:
            case "token":
                print(event["content"], end="", flush=True)
            case "tool_start":
                print(f"[{event['tool_name']} {event['arguments']}]")
    print()

    # Or only the answer.
    print("Again:", session.regenerate().text())

    # The agent asks a person before it calls its tool.
    session.chat("And these?", options={"ask": True}).wait()
    for request in session.inputs():
        print("Asked:", request["prompt"])
        answered = session.answer({request["request_id"]: {"approved": True}})
        if answered is not None:
            print("Approved:", answered.text())

    # What went wrong is an exception with a stable code.
    try:
        session.chat("Fail, please.", options={"fail": "no_luck"}).text()
    except RunFailedError as error:
        print("Failed:", error.code)

    print("The conversation:")
    for message in session.messages():
        print(f"  {message['role']:<9} {text_of(message)[:60]}")
    session.delete()

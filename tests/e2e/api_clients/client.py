"""What a program does with the client that openapi-python-client makes. Prints a line of JSON."""

import importlib
import json
import pkgutil
import sys

import bamboo_gateway_api
from bamboo_gateway_api import Client
from bamboo_gateway_api.api.chat import chat
from bamboo_gateway_api.api.events import list_events
from bamboo_gateway_api.api.sessions import get_session
from bamboo_gateway_api.models import (
    ChatAccepted,
    ChatCompleted,
    ChatInput,
    ChatInputOptions,
    CompleteEvent,
    EventPage,
    EventsAppended,
    PostedCustom,
    Problem,
    TokenEvent,
)

modules = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(bamboo_gateway_api.__path__, "bamboo_gateway_api.")
]
client = Client(base_url=sys.argv[1])


def say(prefer: str) -> object:
    options = ChatInputOptions.from_dict({"delay_ms": 0})
    body = ChatInput(message="Hello!", session_id="typed", options=options)
    return chat.sync(client=client, body=body, prefer=prefer)


waited = say("wait=60")
assert isinstance(waited, ChatCompleted), waited
at_once = say("wait=0")
assert isinstance(at_once, ChatAccepted), at_once

# By hand: of a body that may be an array or a stream, this generator (0.29) makes code that asks
# `isinstance(body, list[…])`, which Python refuses.
posted = PostedCustom(type_="custom", name="progress", value={"percent": 40})
sent = client.get_httpx_client().post("/api/v1/sessions/typed/events", json=[posted.to_dict()])
appended = EventsAppended.from_dict(sent.json())
assert appended.count == 1, appended

page = list_events.sync("typed", client=client, limit=1000)
assert isinstance(page, EventPage), page
assert any(isinstance(event, TokenEvent) for event in page.events)
assert any(isinstance(event, CompleteEvent) for event in page.events)

problem = get_session.sync("unknown", client=client)
assert isinstance(problem, Problem), problem

client.get_httpx_client().close()
print(
    json.dumps(
        {
            "modules": len(modules),
            "waited": waited.status,
            "log": [event.type_ for event in page.events],
            "problem": problem.code,
        }
    )
)

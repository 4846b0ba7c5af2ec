"""A pydantic-ai agent, served over AG-UI, behind the gateway: it gets sessions, resume and stop."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.api.serving import serving
from tests.processes import START_SECONDS, Gateway, environment, free_port
from tests.support.waiting import until
from tests.wires import official
from tests.wires.ag_ui_client import Client, native
from tests.wires.test_ag_ui import messages_of, run, user

SERVER = Path(__file__).parent / "clients" / "ag_ui_server.py"
LOOK = {
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"what": {"type": "string"}}},
}


@contextmanager
def upstream() -> Iterator[str]:
    """Serve the agent in its own environment; give its URL."""
    port = free_port()
    command = [str(official.python()), str(SERVER), str(port)]

    def is_ready() -> bool:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
        except httpx.TransportError:
            return False
        return True

    with subprocess.Popen(command, env=environment()) as process:
        try:
            until(is_ready, "the agent is served", START_SECONDS)
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.kill()


def test_the_agent_is_spoken_to_through_the_gateway_natively_and_over_ag_ui(
    tmp_path: Path,
) -> None:
    with upstream() as url:
        agents = {"default": f"agui+{url}"}
        with serving(agents=agents) as served, served.client() as api:
            said = api.post(
                "/chat",
                json={"session_id": "native", "message": "Hello"},
                headers={"Prefer": "wait=60"},
            ).json()
            assert said["status"] == "completed", said
            assert said["message"]["content"] == [
                {"type": "thinking", "text": "Hm."},
                {"type": "text", "text": "You said Hello"},
            ]
            _talk(api)
        _survives(url, tmp_path)


def _talk(api: httpx.Client) -> None:
    """Call the agent's tool, the client's tool, and one that needs an approval."""
    client = Client()

    def say(text: str, **more: Any) -> None:
        client.messages.append(user(text, f"u{len(client.messages)}"))
        go_on(**more)

    def go_on(**more: Any) -> None:
        run_id = f"run-{len(client.messages)}"
        client.read(run(api, "talk", client.messages, run_id, **more).text)
        assert client.shown() == native(messages_of(api, "talk"))

    say("Use weather")
    assert client.shown()[-1][1] == "The tool says sky is blue"
    say("Use look", tools=[LOOK])
    [call] = client.messages[-1]["toolCalls"]
    client.messages.append(
        {"id": "t1", "role": "tool", "toolCallId": call["id"], "content": "sunny"}
    )
    go_on(tools=[LOOK])
    assert client.shown()[-1][1] == "The tool says sunny"
    say("Please paint")
    [interrupt] = client.last["outcome"]["interrupts"]
    assert api.get("/sessions/talk").json()["state"] == "needs_input"
    entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": {"approved": True}}
    go_on(resume=[entry])
    assert client.shown()[-1][1] == "The tool says painted sky"


def _survives(url: str, directory: Path) -> None:
    """The interrupt is answered after a `kill -9` of the gateway, which the agent never sees."""
    with Gateway(directory, flags=["--agent", f"default=agui+{url}"]) as gateway:
        client = Client(user("paint")).read(run(gateway.http, "s", [user("paint")]).text)
        gateway.kill()
        gateway.start()
        name = client.last["outcome"]["interrupts"][0]["id"]
        answer = {"approved": False, "reason": "too loud"}
        resume = [{"interruptId": name, "status": "resolved", "payload": answer}]
        client.read(run(gateway.http, "s", client.messages, "run-2", resume=resume).text)
        assert client.shown() == native(messages_of(gateway.http, "s"))
        assert "too loud" in client.shown()[-1][1]

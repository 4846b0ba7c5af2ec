"""The official clients of AG-UI, unchanged: with the verifier, the models and the validator on."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.serving import SECONDS, Served, serving
from tests.processes import Gateway
from tests.support.seen import check_session
from tests.wires import official
from tests.wires.ag_ui_client import native, shown
from tests.wires.test_ag_ui import connect, run, user

AGENTS = {
    "default": "demo:?delay_ms=1&text=One two three&coalesce=false",
    "tool": "demo:?delay_ms=0&client_tool=*",
    "ask": "demo:?delay_ms=0&ask=true",
    "state": "python:tests.wires.ag_ui_agent:state",
}
SLOW = "default=demo:?delay_ms=2&tokens=100000&tool=false"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(agents=AGENTS) as running:
        yield running


def client(mode: str, url: str, thread_id: str) -> dict[str, Any]:
    """Run the official client; return what it prints."""
    command = [official.node(), "ag_ui.mjs", mode, f"{url}/api/v1/ag-ui", thread_id]
    done = subprocess.run(
        command, cwd=official.NODE_DIR, capture_output=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["warnings"] == []
    return result


def messages_of(api: httpx.Client, thread_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/sessions/{thread_id}/messages").json()["messages"]
    return found


def test_a_client_that_is_cut_behind_any_frame_has_the_same_messages(served: Served) -> None:
    """R2, as people see it: also reasoning, which a client keeps where a snapshot has none."""
    result = client("cut", served.url, "cut")
    assert result["frames"] > 15
    with served.client() as api:
        for name, messages in result["threads"].items():
            assert shown(messages) == native(messages_of(api, name)), name
            assert len(api.get(f"/sessions/{name}/runs").json()["runs"]) == 1


def test_tools_of_the_client_interrupts_and_errors_work_as_its_users_expect(
    served: Served,
) -> None:
    result = client("talk", served.url, "talk")
    with served.client() as api:
        for name, messages in result["threads"].items():
            assert shown(messages) == native(messages_of(api, name))
    assert result["pending"] == [result["interrupt"]]
    assert result["shown"].startswith("No agent 'nobody' is configured")


def test_a_client_connects_again_after_kill_9_and_sees_what_the_log_has(tmp_path: Path) -> None:
    """R5: the run has an end, and the client has the incomplete message that the session has."""
    node = official.node()
    flags = ["--agent", SLOW]
    with Gateway(tmp_path, flags=flags) as gateway:
        command = [node, "ag_ui.mjs", "follow", f"{gateway.url}/api/v1/ag-ui", "killed"]
        with subprocess.Popen(
            command, cwd=official.NODE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == {"reading": True}
            gateway.kill()
            assert json.loads(process.stdout.readline()) == {"lost": True}
            gateway.start()
            process.stdin.write("connect\n")
            process.stdin.flush()
            again = json.loads(process.stdout.readline())
            process.stdin.close()
            assert json.loads(process.stdout.readline())["warnings"] == []
        stored = check_session(gateway.http, "killed")
        assert stored[-1]["status"] == "incomplete"
        assert shown(again["messages"]) == native(stored)
        assert again["last"]["type"] == "RUN_FINISHED"


_CHECK = """
import json, sys
from pydantic import TypeAdapter
from ag_ui.core import Event, RunAgentInput
events = TypeAdapter(Event)
for line in sys.stdin:
    value = json.loads(line)
    event = events.validate_python(value)
    again = event.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert again == value, (again, value)
print("valid")
"""


def streams_of(served: Served, prefix: str) -> list[str]:
    """Return a stream of every kind: of each agent's run, and of its thread seen again."""
    streams = []
    tools = [{"name": "look", "description": "", "parameters": {}}]
    with served.client() as api:
        for agent in AGENTS:
            name = f"{prefix}-{agent}"
            streams.append(run(api, name, [user()], agent=agent, tools=tools).text)
            streams.append(run(api, name, [user()], agent=agent, tools=tools).text)
            streams.append(connect(api, name).text)
    return streams


def test_the_protocols_validator_finds_nothing(served: Served, tmp_path: Path) -> None:
    validator = official.python().parent / "ag-ui-validate"
    # Each agent's run, and one thread that is seen again.
    streams = streams_of(served, "valid")
    for number, text in enumerate([*streams[::3], *streams[1:3]]):
        stream = tmp_path / f"{number}.sse"
        stream.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [validator, "--no-color", "--max-warnings", "0", stream],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{text}"


def test_the_python_models_of_the_protocol_take_every_event(served: Served) -> None:
    python = official.python()
    streams = streams_of(served, "models")
    lines = [line[6:] for text in streams for line in text.split("\n") if line.startswith("data: ")]
    done = subprocess.run(
        [python, "-c", _CHECK],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == "valid\n", done.stderr

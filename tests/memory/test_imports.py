"""R11: an import takes at most ten times its body, besides what every request may take."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway.domain.limits import MiB
from tests.memory.test_exports import BOUND, Process

BODY_BYTES = 14 * MiB
"""Close to max_body_bytes; how much each kind of document holds of it is counted out below."""

WORDS = "some words, as people write them to a model, and a few more "
TIME = "2026-01-01T00:00:00.000Z"


def own(form: str, message: dict[str, Any]) -> bytes:
    """Return an export of as many messages as there is room for."""
    size = len(json.dumps(message)) + 10
    count = BODY_BYTES // size
    messages = (
        json.dumps({"id": f"m{number}", **message}, ensure_ascii=False) for number in range(count)
    )
    if form == "yaml":
        lines = "".join(f"- {line}\n" for line in messages)
        head = f'bamboo_export: 1\nsession: {{"created_at": "{TIME}"}}\nmessages:\n'
        return f"{head}{lines}message_count: {count}\n".encode()
    head = f'{{"bamboo_export":1,"session":{{"created_at":"{TIME}"}},"messages":['
    return f"{head}{','.join(messages)}]}}".encode()


def small(content: str = "hi") -> dict[str, Any]:
    return {"role": "user", "content": content, "created_at": TIME, "metadata": {}}


def codex() -> bytes:
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": WORDS}]}
    line = json.dumps({"timestamp": TIME, "type": "response_item", "payload": said}).encode()
    meta = {"timestamp": TIME, "type": "session_meta", "payload": {"id": "x", "timestamp": TIME}}
    return b"\n".join([json.dumps(meta).encode(), *[line] * (BODY_BYTES // len(line))])


DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "small messages": lambda: own("json", small()),
    "large messages": lambda: own("json", small("\U0001f600" + "words " * 100_000)),
    "YAML": lambda: own("yaml", small(WORDS * 4)),
    "codex": codex,
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Process]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the memory of a process is looked at through /proc")
    with Process(tmp_path, {"BAMBOO_DURABILITY": "os"}) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "name",
    [
        "small messages",
        "large messages",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("YAML", "codex")),
    ],
)
def test_an_import_takes_at_most_ten_times_its_body(gateway: Process, name: str) -> None:
    body = DOCUMENTS[name]()
    headers = {"Content-Type": "application/octet-stream"}

    def post() -> None:
        made = gateway.call("POST", "/import", content=body, headers=headers, timeout=300)
        assert made["message_count"] > 10

    cost = gateway.costs(post)
    print(f"{name}: {cost / MiB:.0f} MiB for {len(body) / MiB:.0f}")
    assert cost < BOUND + 10 * len(body)

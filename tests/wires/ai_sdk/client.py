"""The official clients in Node.js: conversations that they speak, and what they end with."""

import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.api.serving import SECONDS
from tests.wires import official

V5, V6, V7 = "/api/v1/ai-sdk/chat", "/api/v1/ai-sdk/v6/chat", "/api/v1/ai-sdk/v7/chat"
CLIENTS = {
    "ai-5.0.34": V5,
    "ai-5.0.277": V5,
    "ai-6.0.41": V6,
    "ai-6.0.326": V6,
    "ai-7.0.173": V7,
}
AGENT = {"default": "python:tests.wires.ai_sdk.agent:run"}


@dataclass
class Job:
    """A conversation: what `ai_sdk.mjs` takes."""

    name: str
    version: str
    session: str
    texts: list[Any]
    cuts: list[int] = field(default_factory=list)
    approve: bool = True
    body: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def shape(self) -> dict[str, Any]:
        return {**asdict(self), "api": CLIENTS[self.version]}


def speak(url: str, jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
    """Have the clients speak; return what each job printed, by its name."""
    given = json.dumps([job.shape for job in jobs])
    done = subprocess.run(
        [official.node(), "ai_sdk.mjs", url],
        input=given,
        capture_output=True,
        text=True,
        cwd=official.NODE_DIR,
        timeout=SECONDS * 4,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert [one for one in results if "failure" in one] == []
    return {one["name"]: one for one in results}


def plain(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without what says nothing: ids of texts, and where data stands among texts.

    Data parts come while a text is streamed, and are in the log before that text's message.
    """
    shown = []
    for message in messages:
        others: list[dict[str, Any]] = []
        data: list[dict[str, Any]] = []
        for part in message["parts"]:
            if part["type"] == "reasoning":
                part = {k: v for k, v in part.items() if k != "id"}
            (data if part["type"].startswith("data-") else others).append(part)
        shown.append({**message, "parts": others + sorted(data, key=str)})
    return shown

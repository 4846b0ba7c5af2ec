"""The screen of a front end, folded from events as a front end does, and random conversations."""

import random
from dataclasses import dataclass, field
from typing import Any

from tests.storage.writing import message, run_start

Event = dict[str, Any]


@dataclass
class Screen:
    """What a user sees: the messages in order, and the unfinished text."""

    messages: dict[str, Event] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    others: list[tuple[str, int]] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "Screen":
        return Screen(
            dict(self.messages),
            dict(self.said),
            dict(self.tools),
            list(self.others),
            dict(self.runs),
        )

    def show(self, event: Event) -> None:
        match event["type"]:
            case "token" | "thinking":
                key = event["message_id"]
                self.said[key] = self.said.get(key, "") + event["content"]
            case "tool_delta":
                key = event["tool_call_id"]
                self.tools[key] = self.tools.get(key, "") + event["content"]
            case "message":
                # Authoritative: it replaces whatever deltas have been shown.
                self.messages[event["message"]["id"]] = event["message"]
                self.said.pop(event["message"]["id"], None)
            case "tool_start" | "tool_complete" | "tool_error" as kind:
                if kind != "tool_start":
                    self.tools.pop(event["tool_call_id"], None)
                self.others.append((kind, event["seq"]))
            case "run_start":
                self.runs[event["run_id"]] = "running"
            case "complete" | "error" | "cancelled" as ending:
                self.runs[event["run_id"]] = ending
                # Whatever was left of the run's provisional display goes with it.
                self.tools.clear()
                self.said.clear()
            case kind:
                self.others.append((kind, event["seq"]))


def random_run(chance: random.Random, run_id: str, *, ends: bool = True) -> list[Event]:
    """Return the events of one run, in the order the gateway writes them."""
    run = {"run_id": run_id}
    events: list[Event] = [message(f"{run_id}-in"), run_start(run_id)]
    for part in range(chance.randint(0, 4)):
        said = f"{run_id}-{part}"
        for _ in range(chance.randint(0, 6)):
            kind = chance.choice(["token", "token", "thinking"])
            events.append(
                {"type": kind, **run, "message_id": said, "content": chance.choice("abc")}
            )
        if chance.random() < 0.4:
            call = {"tool_call_id": f"{said}-call"}
            events.append({"type": "tool_start", **run, **call, "tool_name": "t", "arguments": {}})
            delta = {"type": "tool_delta", **run, **call, "content": "out"}
            events += [dict(delta) for _ in range(chance.randint(0, 3))]
            result = {"success": True, "content": "done"}
            events.append({"type": "tool_complete", **run, **call, "result": result})
        if chance.random() < 0.2:
            events.append({"type": "custom", **run, "name": "n", "value": part})
        events.append(message(said, chance.choice(["whole", "text", ""])))
    if ends:
        ending = chance.choice(
            [
                {"type": "complete", **run, "finish_reason": "stop"},
                {"type": "error", **run, "message": "m", "code": "interrupted"},
                {"type": "cancelled", **run, "reason": "user"},
            ]
        )
        events.append(ending)
    return events

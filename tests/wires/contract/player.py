"""Plays a conversation with a speaker: what the person does, and what happens around it."""

from collections.abc import Callable
from typing import assert_never

from tests.support.waiting import until
from tests.wires.contract.conversations import (
    Answer,
    Cancel,
    Compact,
    Conversation,
    Edit,
    Event,
    Kill,
    Queue,
    Regenerate,
    Release,
    Reload,
    Reply,
    Results,
    Say,
    Step,
    is_hold,
)
from tests.wires.contract.gateway import ContractGateway
from tests.wires.contract.speaker import Speaker


class Player:
    """Plays one conversation."""

    def __init__(self, gateway: ContractGateway, conversation: Conversation) -> None:
        self._gateway = gateway
        self._conversation = conversation
        self._others_spoke = False

    def play(self, speaker: Speaker, *, after_each: Callable[[], None] = lambda: None) -> None:
        """Go through all steps. `after_each` is called whenever nothing is being answered."""
        for step in self._conversation.steps:
            held = self._play(speaker, step)
            if not held:
                speaker.settle()
                after_each()

    def _play(self, speaker: Speaker, step: Step) -> bool:
        """Play one step; return whether a run is held now."""
        spoken = self._conversation.spoken
        match step:
            case Say():
                speaker.say(spoken(step.text), step.files, step.tools)
                return self._held(speaker, step.reply)
            case Results():
                speaker.results(step.results)
            case Answer():
                speaker.answer(step.answers)
            case Regenerate():
                speaker.regenerate()
            case Edit():
                speaker.edit(step.number, spoken(step.text))
            case Cancel():
                speaker.cancel()
                self._until_idle(speaker)
            case Reload():
                speaker.reload()
                return True
            case _:
                return self._happen(speaker, step)
        return False

    def _happen(self, speaker: Speaker, step: Release | Kill | Queue | Compact) -> bool:
        """Play a step that is not the person's; return whether a run is held now."""
        match step:
            case Release():
                self._release(speaker)
                if self._others_spoke:  # not all protocols tell a page what others say
                    speaker.settle()
                    speaker.reload()
            case Kill():
                self._gateway.kill()
                self._gateway.start()
            case Queue():
                text = self._conversation.spoken(step.text)
                body = {"session_id": speaker.session_id, "message": text}
                self._gateway.call("POST", "/chat", json=body)
                self._others_spoke = True
                return True
            case Compact():
                self._gateway.compact(speaker.session_id)
            case _:
                assert_never(step)
        return False

    def _held(self, speaker: Speaker, reply: Reply) -> bool:
        if not any(is_hold(event) for event in reply):
            return False
        before: list[Event] = []
        for event in reply:
            if is_hold(event):
                break
            before.append(event)
        until(lambda: self._has_said(speaker, before), "the run has come to where it is held")
        return True

    def _has_said(self, speaker: Speaker, before: list[Event]) -> bool:
        if not speaker.session_id:
            return False
        answer = self._gateway.http.get(f"/sessions/{speaker.session_id}/events?limit=1000")
        if not answer.is_success:
            return False
        events = answer.json()["events"]
        starts = [n for n, event in enumerate(events) if event["type"] == "run_start"]
        if not starts:
            return False
        run = events[starts[-1] :]
        return all(_told(run, kind) == _told(before, kind) for kind in ("token", "thinking")) and (
            _count(run) == _count(before)
        )

    def _release(self, speaker: Speaker) -> None:
        runs = self._gateway.call("GET", f"/sessions/{speaker.session_id}/runs?limit=1000")["runs"]
        for run in runs:
            (self._gateway.directory / f"go-{run['run_id']}").touch()
        self._until_idle(speaker)

    def _until_idle(self, speaker: Speaker) -> None:
        def is_idle() -> bool:
            path = f"/sessions/{speaker.session_id}/runs?limit=1000"
            runs = self._gateway.call("GET", path)["runs"]
            return all(run["status"] not in {"queued", "running"} for run in runs)

        until(is_idle, "no run is active or waits")


def _told(events: list[Event], kind: str) -> str:
    return "".join(event["content"] for event in events if event["type"] == kind)


def _count(events: list[Event]) -> int:
    return sum(event["type"] in {"tool_start", "tool_complete", "tool_error"} for event in events)

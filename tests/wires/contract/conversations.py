"""Forty conversations, each described once: what the user does, and what the agent says.

They know no protocol. A wire that cannot say one of their steps, or shows less of one, says so in
its table of exceptions (`speaker.Speaker.exceptions`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

Event = dict[str, Any]
Reply = tuple[Event, ...]

HOLD: Event = {"hold": True}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True)
class File:
    """A file that a user sends with a message."""

    media_type: str
    data: str
    name: str

    @property
    def url(self) -> str:
        return f"data:{self.media_type};base64,{self.data}"


@dataclass(frozen=True)
class Say:
    """The user says something. The run is `held` when the reply has a `HOLD`."""

    text: str
    reply: Reply = ()
    files: tuple[File, ...] = ()
    tools: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """The client answers its own tool calls, by their ids."""

    results: Mapping[str, str]
    reply: Reply = ()


@dataclass(frozen=True)
class Answer:
    """The user answers the open requests for input, by their ids."""

    answers: Mapping[str, Any]
    reply: Reply = ()


@dataclass(frozen=True)
class Regenerate:
    """The user asks for another answer to the last message."""

    reply: Reply = ()


@dataclass(frozen=True)
class Edit:
    """The user rewords the message with this number (from 0), and that is answered."""

    number: int
    text: str
    reply: Reply = ()


@dataclass(frozen=True)
class Release:
    """The held run goes on to its end."""


@dataclass(frozen=True)
class Cancel:
    """The user stops the held run."""


@dataclass(frozen=True)
class Kill:
    """The gateway is killed in the middle of the held run, and started again."""


@dataclass(frozen=True)
class Reload:
    """The user's page is loaded again: a new client that knows the conversation's name."""


@dataclass(frozen=True)
class Queue:
    """Another program says something while the run is held; it waits for its turn."""

    text: str
    reply: Reply = ()


@dataclass(frozen=True)
class Compact:
    """The deltas of all ended runs leave the log."""


Step = (
    Say | Results | Answer | Regenerate | Edit | Release | Cancel | Kill | Reload | Queue | Compact
)


@dataclass(frozen=True)
class Conversation:
    """One conversation.

    Attributes:
        name: Its name, with which its first message begins.
        steps: What happens, in order.
        slow: Whether it is left out of the quick run.
    """

    name: str
    steps: Sequence[Step]
    slow: bool = False

    @property
    def prefix(self) -> str:
        return f"[{self.name}] "

    def spoken(self, text: str) -> str:
        """Return a user's words as they are sent."""
        return self.prefix + text

    @cached_property
    def replies(self) -> dict[str, list[Reply]]:
        """What the agent says to each cue, in the order in which it is asked."""
        found: dict[str, list[Reply]] = {}
        cue = ""
        for step in self.steps:
            match step:
                case Say() | Edit() | Queue():
                    cue = self.spoken(step.text)
                case Results():
                    cue = "results"
                case Answer():
                    cue = "answers"
                case Regenerate():
                    pass
                case _:
                    continue
            if isinstance(step, Regenerate):
                cue = self._last_words(step)
            found.setdefault(cue, []).append(step.reply)
        return found

    def _last_words(self, before: Step) -> str:
        said = ""
        for step in self.steps:
            if step is before:
                break
            if isinstance(step, Say | Edit | Queue):
                said = step.text
        return self.spoken(said)

    @property
    def is_held(self) -> bool:
        return any(
            is_hold(event) for replies in self.replies.values() for r in replies for event in r
        )


def is_hold(event: Event) -> bool:
    """Return whether a step of a reply is a stop, and no event."""
    return "hold" in event


def text(*deltas: str) -> Reply:
    return tuple({"type": "token", "content": delta} for delta in deltas)


def thinking(*deltas: str) -> Reply:
    return tuple({"type": "thinking", "content": delta} for delta in deltas)


def call(call_id: str, name: str, /, **arguments: Any) -> Event:
    return {
        "type": "tool_start",
        "tool_call_id": call_id,
        "tool_name": name,
        "arguments": arguments,
    }


def delta(call_id: str, content: str) -> Event:
    return {"type": "tool_delta", "tool_call_id": call_id, "content": content}


def result(call_id: str, content: Any, *, success: bool = True) -> Event:
    value = {"success": success, "content": content}
    return {"type": "tool_complete", "tool_call_id": call_id, "result": value}


def failed_call(call_id: str, error: str) -> Event:
    return {"type": "tool_error", "tool_call_id": call_id, "error": error}


def custom(name: str, value: Any) -> Event:
    return {"type": "custom", "name": name, "value": value}


def asks(request_id: str, prompt: str, kind: str = "approval", **more: Any) -> Event:
    return {
        "type": "input_required",
        "request_id": request_id,
        "prompt": prompt,
        "kind": kind,
        **more,
    }


def complete(**usage: int) -> Event:
    return {"type": "complete", "usage": usage} if usage else {"type": "complete"}


FAILS: Event = {"type": "error", "message": "The model is on fire.", "code": "on_fire"}

_AWKWARD = "a\u2028b\u2029c\u0085d\r\ne\rf\n\ndata: [DONE]\n\nevent: x\nid: 1\n\ttab \ufeff bom"
# Of many scripts.
_SCRIPTS = "Grüße, 你好，世界 العربية שלום हिन्दी ภาษาไทย 한국어 ὀδυσσεύς ǅ"  # noqa: RUF001
_EMOJI = "👩\u200d💻👍🏽🇩🇪 e\u0301 \u1112\u1161\u11ab \U0001f38b\U0010fffd"
_CONTROL = "nul:\u0001 esc:\u001b[31m del:\u007f \u0000 zwsp:\u200b rtl:\u202eabc\u202c"
_MARKUP = '```js\n</script><b>&amp;"quoted" \'x\' \\n \\u0041 {"a": [1]}\n```'
_IMAGE = File("image/png", PIXEL, "pixel.png")
_NOTE = File("text/plain", "SGVsbG8sIGZpbGUh", "note.txt")
_OBJECT = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}


def _conversation(name: str, *steps: Step, slow: bool = False) -> Conversation:
    return Conversation(name, steps, slow)


_ALL = (
    _conversation("one word", Say("Hi", text("Hello"))),
    _conversation("many deltas", Say("Count", text(*(f"{n} " for n in range(60))))),
    _conversation(
        "three turns",
        Say("one", text("first")),
        Say("two", text("sec", "ond")),
        Say("three", text("third")),
    ),
    _conversation("thinking", Say("Think", thinking("Let me ", "see.") + text("It is ", "4."))),
    _conversation("only thinking", Say("Think on", thinking("Hm", "m."))),
    _conversation("empty answer", Say("Say nothing"), Say("And now?", text("Something."))),
    _conversation("empty deltas", Say("Air", text("", "a", "", "b", ""))),
    _conversation(
        "one tool",
        Say(
            "Weather?",
            (call("w1", "weather", city="Köln"), result("w1", {"degrees": 7}), *text("7 degrees.")),
        ),
    ),
    _conversation(
        "text before a tool",
        Say(
            "Look it up",
            (*text("I look."), call("l1", "look", n=1), result("l1", "found"), *text("Here.")),
        ),
    ),
    _conversation(
        "parallel tools",
        Say(
            "All at once",
            (
                *text("Two calls."),
                call("p1", "left", side="l"),
                call("p2", "right", side="r"),
                result("p2", "R"),
                result("p1", "L"),
                *text("Both."),
            ),
        ),
    ),
    _conversation(
        "several steps",
        Say(
            "Step by step",
            (
                *thinking("First."),
                *text("One."),
                call("s1", "step", n=1),
                result("s1", "1"),
                *thinking("Then."),
                *text("Two."),
                call("s2", "step", n=2),
                result("s2", [1, 2, {"three": None}]),
                *text("Done."),
            ),
        ),
    ),
    _conversation(
        "arguments as they come",
        Say(
            "Slowly",
            (
                delta("d1", '{"text": '),
                delta("d1", '"long"}'),
                call("d1", "write", text="long"),
                result("d1", "ok"),
                *text("Written."),
            ),
        ),
    ),
    _conversation(
        "output as it comes",
        Say(
            "Run it",
            (
                call("o1", "shell", cmd="ls"),
                delta("o1", "a\n"),
                delta("o1", "b\n"),
                result("o1", "a\nb\n"),
                *text("Two files."),
            ),
        ),
    ),
    _conversation(
        "tool error",
        Say(
            "Try",
            (call("e1", "fragile"), failed_call("e1", "it broke: \u2028é"), *text("It broke.")),
        ),
    ),
    _conversation(
        "unsuccessful result",
        Say(
            "Try again",
            (call("u1", "fragile"), result("u1", {"why": "no"}, success=False), *text("No.")),
        ),
    ),
    _conversation(
        "only a tool", Say("Just do it", (call("j1", "do"), result("j1", None), complete()))
    ),
    _conversation(
        "client tool",
        Say("Where am I?", (call("c1", "locate", exact=True),), tools=("locate",)),
        Results({"c1": "at home"}, text("You are at home.")),
    ),
    _conversation(
        "client tools in parallel",
        Say(
            "Where and when?",
            (*text("One moment."), call("c1", "locate"), call("c2", "clock")),
            tools=("locate", "clock"),
        ),
        Results({"c1": "here", "c2": "now"}, text("Here and now.")),
    ),
    _conversation(
        "client tools in two rounds",
        Say("Two rounds", (call("r1", "locate"),), tools=("locate",)),
        Results({"r1": "one"}, (*text("Again."), call("r2", "locate"))),
        Results({"r2": "two"}, text("Thanks.")),
        Say("And?", text("Nothing.")),
    ),
    _conversation(
        "usage", Say("Cost?", (*text("Nine."), complete(prompt_tokens=4, completion_tokens=5)))
    ),
    _conversation("image", Say("What is this?", text("A pixel."), files=(_IMAGE,))),
    _conversation("two files", Say("Compare", text("Differ."), files=(_IMAGE, _NOTE))),
    _conversation(
        "cancelled",
        Say("Talk", (*text("On and", " on"), HOLD)),
        Cancel(),
        Say("Go on", text("No.")),
    ),
    _conversation("cancelled before a word", Say("Talk", (HOLD,)), Cancel()),
    _conversation(
        "cancelled in a tool",
        Say("Dig", (*text("Digging"), call("g1", "dig"), HOLD)),
        Cancel(),
        Say("Well?", text("Stopped.")),
    ),
    _conversation("failed", Say("Burn", (*text("Ouch"), FAILS)), Say("Better?", text("Yes."))),
    _conversation("failed at once", Say("Burn", (FAILS,)), Say("Better?", text("Yes."))),
    _conversation(
        "failed in a tool", Say("Burn", (call("f1", "match"), FAILS)), Say("Better?", text("Yes."))
    ),
    _conversation(
        "killed", Say("Talk", (*text("Half an "), HOLD)), Kill(), Say("Still there?", text("Yes."))
    ),
    _conversation(
        "killed in a tool",
        Say("Dig", (*thinking("Deep."), call("k1", "dig"), HOLD)),
        Kill(),
        Say("Still there?", text("Yes.")),
    ),
    _conversation(
        "approved",
        Say(
            "Pay",
            (*text("May I?"), call("a1", "pay", eur=9), asks("q1", "Pay?", tool_call_id="a1")),
        ),
        Answer({"q1": {"approved": True}}, (result("a1", "paid"), *text("Paid."))),
    ),
    _conversation(
        "denied",
        Say("Pay", (call("n1", "pay", eur=9), asks("q2", "Pay?", tool_call_id="n1"))),
        Answer(
            {"q2": {"approved": False, "reason": "too much"}},
            (failed_call("n1", "denied"), *text("Not paid.")),
        ),
    ),
    _conversation(
        "question and form",
        Say(
            "Order",
            (
                *text("Some questions."),
                asks("q3", "Which colour?", "question"),
                asks("q4", "Which size?", "form", schema=_OBJECT),
            ),
        ),
        Answer({"q3": "blue", "q4": {"size": 3}}, text("Blue, 3.")),
    ),
    _conversation(
        "regenerated",
        Say("Name one", text("Red.")),
        Regenerate(text("Blue.")),
        Say("Why?", text("It is calm.")),
    ),
    _conversation(
        "regenerated tools",
        Say("Look", (call("t1", "look"), result("t1", 1), *text("One."))),
        Regenerate((call("t2", "look"), result("t2", 2), *text("Two."))),
    ),
    _conversation(
        "edited",
        Say("First", text("1")),
        Say("Secnod", text("2?")),
        Edit(1, "Second", text("2")),
        Say("Third", text("3")),
    ),
    _conversation("edited at the root", Say("Frist", text("?")), Edit(0, "First", text("1"))),
    _conversation(
        "reloaded in mid-answer",
        Say("Long", (*text("Some", " words"), HOLD, *text(" and", " more"))),
        Reload(),
        Release(),
        Say("Thanks", text("Welcome.")),
    ),
    _conversation(
        "reloaded in a tool round",
        Say(
            "Work",
            (*text("Now"), call("m1", "work"), HOLD, result("m1", "ok"), *text("Done", ".")),
        ),
        Reload(),
        Release(),
    ),
    _conversation(
        "queued",
        Say("First", (*text("One"), HOLD, *text(" done"))),
        Queue("Second", text("Two")),
        Release(),
    ),
    _conversation(
        "compacted",
        Say(
            "Talk",
            (
                *thinking("T", "h"),
                *text("A", *("much " * 512 for _ in range(40)), "B"),
                call("z1", "t"),
                result("z1", "r"),
                *text("C"),
            ),
        ),
        Compact(),
        Say("More", text("D", "E")),
        slow=True,
    ),
    _conversation(
        "unicode",
        Say(f"{_SCRIPTS} {_EMOJI}", (*thinking(_SCRIPTS), *text(*_EMOJI, _SCRIPTS))),
        Say(_MARKUP, (call("x1", "echo", text=_EMOJI), result("x1", _SCRIPTS), *text(_MARKUP))),
    ),
    _conversation(
        "line ends", Say(f"Lines {_AWKWARD}", text(_AWKWARD, "\n", "\r", "\n\n", _AWKWARD))
    ),
    _conversation("control characters", Say("Control", text(_CONTROL, *_CONTROL))),
    _conversation(
        "custom events",
        Say("Progress", (custom("progress", {"done": 0.5}), *text("Half."), custom("x y/ü", [1]))),
    ),
    _conversation("very long", Say("Long", text(*("0123456789abcdef" * 64 for _ in range(200))))),
    _conversation(
        "many turns",
        *(Say(f"turn {n}", text(f"answer {n}")) for n in range(40)),
        slow=True,
    ),
    _conversation(
        "many tools",
        Say(
            "Everything",
            tuple(
                event
                for n in range(30)
                for event in (*text(f"{n}"), call(f"y{n}", "t", n=n), result(f"y{n}", n))
            ),
        ),
    ),
)

CONVERSATIONS = {one.name: one for one in _ALL}

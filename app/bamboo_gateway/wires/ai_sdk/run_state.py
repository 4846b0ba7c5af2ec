"""What the frames of a run depend on: values, so that readers can share what was made of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.wires.ai_sdk.ui_messages import UiMessages, is_denied
from bamboo_gateway.wires.ai_sdk.versions import Version
from bamboo_gateway.wires.places import Place, Texts


@dataclass(frozen=True, slots=True)
class Begin:
    """What the UI message has before the run.

    Attributes:
        message_id: Its id; None when the run begins it.
        calls: Its tool calls, each as its part.
        requests: Its open requests for input, with the call that each is about, or "".
        denied: The calls whose approval was denied.
    """

    message_id: str | None = None
    calls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    denied: frozenset[str] = frozenset()

    @staticmethod
    def of(ui: UiMessages) -> "Begin":
        """Return where a run goes on with the assistant's message at the end, if there is one."""
        if ui.assistant is None:
            return Begin()
        return Begin(
            ui.assistant["id"],
            dict(ui.calls),
            {name: asked.get("tool_call_id") or "" for name, asked in ui.requests.items()},
            frozenset(call_id for call_id, answer in ui.answers.items() if is_denied(answer)),
        )


class Hot(NamedTuple):
    """The open text, which the next delta probably continues.

    Attributes:
        prefix: The begin of a delta's line.
        stem: What it has before its text. No text can hold it: its quotation marks are escaped.
        frame: What the frame has there.
    """

    prefix: bytes
    stem: bytes
    frame: bytes

    def take(self, lines: bytes, at: int, texts: Texts, out: list[bytes]) -> tuple[int, Texts]:
        """Add the frames of the deltas that continue the text; most lines are such.

        Returns:
            Where the other lines begin, and the text.
        """
        prefix, stem, frame = self
        while lines.startswith(prefix, at):
            end = lines.index(b"\n", at)
            text_at = lines.find(stem, at, end)
            if text_at < 0:
                break
            text = lines[text_at + len(stem) : end]
            texts = (texts, text[1:-2])
            out.append(b"%b%b\n\n" % (frame, text))
            at = end + 1
        return at, texts


Said = tuple[tuple[bytes, Texts], ...]
"""The kinds of texts, and the texts."""


class RunState(NamedTuple):
    """What the frames so far have made of the UI message. Nobody changes it.

    Attributes:
        has_begun: Whether the run's input lies behind.
        started: Whether the client has the message's id.
        held: Data that came before there was a message.
        step: The open step, by its message of the gateway.
        text: The kind and the message of the open text; what was said of it is in the place.
        hot: How it goes on.
        said: The closed texts of messages that are not in the log yet.
        calls: The calls of the UI message.
        results: Those that have a result.
        approved: Those that were approved.
        denied: Those whose approval was denied.
        requests: The requests for input, with the call that each is about, or "".
    """

    has_begun: bool
    started: bool
    held: tuple[dict[str, Any], ...] = ()
    step: bytes | None = None
    text: tuple[bytes, bytes] | None = None
    hot: Hot | None = None
    said: Mapping[bytes, Said] = {}
    calls: frozenset[str] = frozenset()
    results: frozenset[str] = frozenset()
    approved: tuple[str, ...] = ()
    denied: frozenset[str] = frozenset()
    requests: Mapping[str, str] = {}

    @staticmethod
    def of(begin: Begin) -> "Place[RunState]":
        """Return the place before a run."""
        return Place(
            RunState(
                has_begun=False,
                started=begin.message_id is not None,
                calls=frozenset(begin.calls),
                denied=begin.denied,
                requests=begin.requests,
            )
        )


class Run:
    """A run, as the clients of a version get it.

    Args:
        run_id: The run.
        version: The clients' version.
        calls: The calls that the UI message has before the run, each as its part.
        prefix: The path prefix in the URLs of files.
    """

    __slots__ = ("calls", "delta", "named", "prefix", "run_id", "version")

    def __init__(
        self, run_id: str, version: Version, calls: Mapping[str, Mapping[str, Any]], prefix: str
    ) -> None:
        self.run_id = run_id
        self.version = version
        self.calls = calls
        self.prefix = prefix
        self.named = b'"run_id":%b' % encode(run_id)
        self.delta = re.compile(
            rb'\{"type":"(token|thinking)","seq":[0-9]+,"time":"[^"]*",%b,'
            rb'"message_id":"([^"\\]*)","content":"(.*)"\}' % re.escape(self.named),
            re.DOTALL,
        )

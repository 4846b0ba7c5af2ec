"""The official clients that the contract suite drives, by the name of their wire and their own."""

from dataclasses import dataclass

import pytest
from typing_extensions import override

from tests.wires.contract.ag_ui import AgUiSpeaker
from tests.wires.contract.ai_sdk import AiSdk5, AiSdk5First, AiSdk6, AiSdk6First, AiSdk7
from tests.wires.contract.durable_streams import LongPollReader, NpmReader, PythonReader
from tests.wires.contract.native import NativeSpeaker
from tests.wires.contract.openai import OpenAINodeSpeaker, OpenAISpeaker
from tests.wires.contract.speaker import Speaker


@dataclass(frozen=True)
class Client:
    """One client of one wire.

    Attributes:
        wire: The wire's name.
        name: The client's name, as the docs have it.
        speaker: Makes a speaker for a session of this id.
        quick: Whether the default run plays all conversations with it, but for slow ones.
        samples: Whether it plays at least those of `SAMPLES`. All of them are played by all clients
            where slow tests run, and by `make conformance`.
    """

    wire: str
    name: str
    speaker: type[Speaker]
    quick: bool = False
    samples: bool = True

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        """The marks of its tests."""
        return [] if self.speaker.is_httpx else [pytest.mark.external_service]

    @override
    def __str__(self) -> str:
        return f"{self.wire}:{self.name}"


CLIENTS = (
    Client("native", "httpx", NativeSpeaker, quick=True),
    Client("durable-streams", "durable-streams 0.1.0 of PyPI, sse", PythonReader, quick=True),
    Client("durable-streams", "durable-streams 0.1.0 of PyPI, long-poll", LongPollReader),
    Client("durable-streams", "@durable-streams/client 0.2.7 of npm, sse", NpmReader),
    Client("ai-sdk", "ai 5.0.34", AiSdk5First),
    Client("ai-sdk", "ai 5.0.277", AiSdk5),
    Client("ai-sdk", "ai 6.0.41", AiSdk6First),
    Client("ai-sdk", "ai 6.0.326", AiSdk6),
    Client("ai-sdk", "ai 7.0.173", AiSdk7, quick=True),
    Client("ag-ui", "@ag-ui/client 1.0.0", AgUiSpeaker, quick=True),
    Client("openai", "openai 3.52.0 of PyPI", OpenAISpeaker, quick=True),
    Client("openai", "openai 7.59.0 of npm", OpenAINodeSpeaker),
)

SAMPLES = ("several steps", "cancelled", "failed", "killed", "reloaded in a tool round", "unicode")

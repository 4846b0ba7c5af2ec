"""Files in turns: pictures for model servers, and files that agents read."""

from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from typing_extensions import override

from bamboo_gateway.agents.base import Agent, Turn
from bamboo_gateway.agents.openai_images import images_of
from bamboo_gateway.agents.openai_messages import to_openai
from bamboo_gateway.agents.turn_files import FileRefused, TurnFile
from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.events import AgentEvent, Complete, MessageSaid, Token
from bamboo_gateway.domain.limits import MiB
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.files.uploads import NewFile
from tests.support.gateways import ME, Gateway, gateway

TIME = "2026-01-01T00:00:00.000Z"
PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 10


def image(file_id: str, size: int) -> dict[str, Any]:
    shown = {"name": "a.png", "media_type": "image/png", "bytes": size}
    return {"type": "image", "file_id": file_id, **shown}


def turn_of(*parts: dict[str, Any]) -> tuple[Turn, list[str]]:
    """Return a turn with one message for each part, and the files that are opened."""
    opened: list[str] = []

    async def open_file(file_id: str) -> TurnFile:
        opened.append(file_id)
        if file_id == "gone":
            raise FileRefused("It is gone.")

        async def pieces() -> AsyncGenerator[bytes]:
            yield PNG[:5]
            yield PNG[5:]

        return TurnFile(file_id, "a.png", "image/png", len(PNG), pieces)

    messages = [Message(f"m{n}", "user", [part], TIME) for n, part in enumerate(parts)]
    return Turn("run_1", messages, {"id": "s"}, open_file=open_file), opened


async def test_the_latest_pictures_that_fit_are_read() -> None:
    turn, opened = turn_of(
        image("old", 15 * MiB),
        image("large", 30 * MiB),
        image("gone", 10),
        image("new", 10 * MiB),
        {"type": "file", "file_id": "text", "name": "t", "media_type": "text/plain", "bytes": 1},
    )
    images = await images_of(turn, 16 * MiB)
    assert opened == ["new", "gone"]
    assert images == {"new": "data:image/png;base64," + b64encode(PNG).decode()}


def test_a_request_has_pictures_as_data_and_names_the_rest() -> None:
    content = [
        {"type": "text", "text": "see"},
        image("new", 10),
        image("old", 20),
        {"type": "file", "file_id": "t", "name": "t.csv", "media_type": "text/csv", "bytes": 7},
    ]
    [request] = to_openai([Message("m", "user", content, TIME)], images={"new": "data:x"})
    assert request["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:x"}},
        {"type": "text", "text": "[image a.png: image/png, 20 bytes]"},
        {"type": "text", "text": "[file t.csv: text/csv, 7 bytes]"},
    ]


async def test_a_large_file_is_read_in_pieces_only() -> None:
    turn, _ = turn_of()
    file = await turn.open_file("a")
    assert await file.read() == PNG
    with pytest.raises(FileRefused):
        await file.read(10)


class Reader(Agent):
    """Reads the files of its input, and answers with a message that names files."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.names: list[str] = []
        self.opens: list[str] = []

    @override
    async def run(self, turn: Turn) -> AsyncIterator[AgentEvent]:
        for part in turn.messages[-1].content:
            if isinstance(part, dict) and "file_id" in part:
                file = await turn.open_file(part["file_id"])
                self.read.append(await file.read())
        for file_id in self.opens:
            await turn.open_file(file_id)
        yield Token("read")
        if self.names:
            parts = [{"type": "image", "file_id": name} for name in self.names]
            yield MessageSaid({"role": "assistant", "content": parts})
        yield Complete()


async def body(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def upload(gate: Gateway, data: bytes, caller: Caller = ME) -> str:
    new = NewFile("a.png", "image/png")
    return str((await gate.manager.upload_file(caller, new, body(data))).answer["file_id"])


async def chat(gate: Gateway, file_id: str, run_id: str) -> str:
    said: list[dict[str, Any]] = [{"type": "image", "file_id": file_id}]
    session = NewSession(id="s", user_id="u")
    await gate.manager.chat(
        ME, Chat(session, [NewMessage("user", said)], agent="reader", run_id=run_id)
    )

    status: str = (await gate.ended(run_id))["status"]
    return status


async def test_an_agent_reads_files_of_its_session_and_names_those_of_its_user() -> None:
    reader = Reader()
    user = Caller("u", user_id="u")
    async with gateway(agents={"reader": reader}) as gate:
        named = await upload(gate, PNG)
        own, foreign = await upload(gate, PNG + b"own", user), await upload(gate, PNG + b"foreign")
        reader.names = [own, named]
        assert await chat(gate, named, "r1") == "completed"
        assert reader.read == [PNG]
        page = await gate.manager.messages(user, "s")
        assert f'"file_id":"{own}","name":"a.png"'.encode() in page.messages[-1]
        file = await gate.manager.open_file(user, named)
        assert file.record.size == len(PNG)
        # One that neither the session names nor its user has.
        reader.names = [foreign]
        assert await chat(gate, named, "r2") == "failed"
        run = await gate.manager.run(ME, "s", "r2")
        assert run["error"] is not None
        assert run["error"]["code"] == "unknown_file"
        reader.names, reader.opens = [], [foreign]
        assert await chat(gate, named, "r3") == "failed"

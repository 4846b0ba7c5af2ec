"""The same conversations on every wire, with the official clients of each (R2, R5, R6).

What is said through a wire stands in `/messages` as if it had been said natively, what is said
natively is read through the wire, and the client ends with what the authoritative messages say,
also when its stream was cut.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.wires.contract.clients import CLIENTS, SAMPLES, Client
from tests.wires.contract.conversations import CONVERSATIONS, Conversation
from tests.wires.contract.gateway import ContractGateway
from tests.wires.contract.native import NativeSpeaker
from tests.wires.contract.player import Player
from tests.wires.contract.speaker import Speaker, native_said

SLOW = pytest.mark.slow
_QUICK_CUT = 3
_CUTS = (1, _QUICK_CUT, 7)
"""Behind which frames streams are cut where slow tests run; of clients that are much like another
one, and in the default run, behind one frame."""


def _cases(is_quick: Callable[[Client, Conversation], bool], *, native: bool = True) -> list[Any]:
    return [
        pytest.param(
            client,
            conversation,
            id=f"{client}-{conversation.name}",
            marks=client.marks if is_quick(client, conversation) else [*client.marks, SLOW],
        )
        for client in CLIENTS
        if native or client.wire != "native"
        for conversation in CONVERSATIONS.values()
    ]


def _is_quick(client: Client, conversation: Conversation) -> bool:
    if client.quick:
        return not conversation.slow
    return client.samples and conversation.name in SAMPLES


def _is_quickly_read(client: Client, conversation: Conversation) -> bool:
    return (client.quick and not conversation.slow) or conversation.name == "compacted"


def _cut_cases() -> list[Any]:
    return [
        pytest.param(
            client,
            conversation,
            cut,
            id=f"{client}-{conversation.name}-{cut}",
            marks=client.marks
            if client.quick and conversation.name in SAMPLES and cut == _QUICK_CUT
            else [*client.marks, SLOW],
        )
        for client in CLIENTS
        for conversation in CONVERSATIONS.values()
        for cut in (_CUTS if client.quick else (_QUICK_CUT,))
    ]


@pytest.fixture(scope="module")
def spoken() -> dict[str, str]:
    """Return the sessions in which conversations were spoken natively, by conversation."""
    return {}


def _native(gateway: ContractGateway, spoken: dict[str, str], conversation: Conversation) -> str:
    """Return the id of the session in which the conversation was spoken natively."""
    name = conversation.name
    if name not in spoken:
        speaker = NativeSpeaker(gateway, f"spoken-{name.replace(' ', '-')}")
        Player(gateway, conversation).play(speaker)
        spoken[name] = speaker.session_id
    return spoken[name]


def _speaker(client: Client, gateway: ContractGateway, *parts: object) -> Speaker:
    name = "-".join(str(part) for part in (client.wire, client.name, *parts))
    return client.speaker(gateway, re.sub(r"[^a-z0-9.-]+", "-", name))


def _excepted(speaker: Speaker, conversation: Conversation) -> None:
    if reason := speaker.exceptions.get(conversation.name):
        speaker.close()
        pytest.skip(reason)


def _check(speaker: Speaker) -> None:
    authoritative = native_said(speaker.gateway, speaker.session_id)
    assert speaker.said() == speaker.as_seen(authoritative)
    if (shown := speaker.customs()) is not None:
        path = f"/sessions/{speaker.session_id}/events?type=custom"
        events = speaker.gateway.call("GET", path)["events"]
        assert shown == [(event["name"], event["value"]) for event in events]


@pytest.mark.parametrize(("client", "conversation"), _cases(_is_quick))
def test_what_is_said_through_a_wire_is_what_the_messages_say(
    gateway: ContractGateway,
    spoken: dict[str, str],
    client: Client,
    conversation: Conversation,
) -> None:
    speaker = _speaker(client, gateway, conversation.name)
    _excepted(speaker, conversation)
    try:
        Player(gateway, conversation).play(speaker, after_each=lambda: _check(speaker))
        said = native_said(gateway, speaker.session_id)
        speaker.reload()
        speaker.settle()
        assert speaker.said() == speaker.as_seen(said)
    finally:
        speaker.close()
    natively = native_said(gateway, _native(gateway, spoken, conversation))
    assert speaker.as_kept(natively) == said


@pytest.mark.parametrize(("client", "conversation"), _cases(_is_quickly_read, native=False))
def test_what_is_said_natively_is_read_through_a_wire(
    gateway: ContractGateway,
    spoken: dict[str, str],
    client: Client,
    conversation: Conversation,
) -> None:
    session_id = _native(gateway, spoken, conversation)
    speaker = client.speaker(gateway, session_id)
    try:
        speaker.reload()
        speaker.settle()
        _check(speaker)
    finally:
        speaker.close()


@pytest.mark.parametrize(("client", "conversation", "cut"), _cut_cases())
def test_a_stream_that_is_cut_ends_with_the_same_messages(
    gateway: ContractGateway, client: Client, conversation: Conversation, cut: int
) -> None:
    speaker = _speaker(client, gateway, conversation.name, cut)
    _excepted(speaker, conversation)
    speaker.cut_after = cut
    try:
        Player(gateway, conversation).play(speaker, after_each=lambda: _check(speaker))
        if cut == 1 or (cut == _QUICK_CUT and client.quick and conversation.name in SAMPLES):
            assert speaker.was_cut()
    finally:
        speaker.close()

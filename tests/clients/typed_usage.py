"""What type checkers know of the client: `make check` reads this file, and nothing runs it."""

from typing import Literal, assert_type

from bamboo_gateway_client import AsyncGateway, Gateway, is_terminal
from bamboo_gateway_client.types import Message, RunWaited


def streams(gateway: Gateway) -> None:
    for event in gateway.session("s").stream():
        if event["type"] == "token":
            assert_type(event["content"], str)
        elif event["type"] == "reset":
            assert_type(event["reason"], Literal["unknown_position", "epoch_changed"])
        elif event["type"] == "message":
            assert_type(event["message"], Message)
        if is_terminal(event):
            assert_type(event["type"], Literal["complete", "error", "cancelled"])
    for change in gateway.changes():
        if change["type"] == "session_changed":
            assert_type(change["title"], str | None)


async def runs(gateway: AsyncGateway) -> None:
    run = await gateway.chat("Hello!")
    assert_type(await run.wait(), RunWaited)
    assert_type(await run.text(), str)
    async for conversation in gateway.session(run.session_id).follow():
        assert_type(conversation.messages, list[Message])

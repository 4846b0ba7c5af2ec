"""R10: whichever line of a branched log is damaged, the rest opens, and its counts are right."""

from typing import Any

import pytest

from bamboo_gateway.domain.branch_folds import state_at
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import Complete, InputRequired, Token, ToolStart
from bamboo_gateway.domain.paths import branches_of, path_of
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.commands import Regenerate
from bamboo_gateway.storage.jsonl.log.log import make_header
from bamboo_gateway.storage.jsonl.repair import make_log, salvage
from bamboo_gateway.storage.lines import to_line
from tests.support.gateways import ME, Gateway


async def branched_log(gate: Gateway) -> tuple[list[dict[str, Any]], SessionHead]:
    """Make a log with branches of branches, which are left, chosen again and go on."""

    async def end(run_id: str, *steps: Any) -> None:
        gate.agent.do(run_id, Token(f"answer of {run_id}"), *(steps or (Complete(),)))
        await gate.ended(run_id)

    async def again(run_id: str, message_id: str | None = None) -> None:
        await gate.manager.regenerate(ME, "s", Regenerate(message_id, run_id=run_id))

    async def select(place: int) -> None:
        listed = (await gate.manager.branches(ME, "s"))["branches"]
        await gate.manager.select_branch(ME, "s", listed[place]["branch_id"])

    await gate.chat(run_id="r1")
    await end("r1")
    await gate.chat(run_id="r2")
    asks = InputRequired("Pay?", "approval", "call", request_id="q")
    await end("r2", ToolStart("call", "pay"), asks, Complete(finish_reason="input_required"))
    await again("r3")
    await end("r3", InputRequired("Who?"), Complete(finish_reason="input_required"))
    await gate.chat(run_id="r4", edit_message_id=(await gate.messages())[0]["id"])
    await end("r4")
    await select(1)
    await again("r5", (await gate.messages())[-1]["id"])
    await end("r5")
    await select(0)
    await gate.chat(run_id="r6")
    await end("r6")
    await select(3)
    await again("r7", (await gate.messages())[-1]["id"])
    await end("r7")
    await select(2)
    head = await gate.store.load("s")
    assert head is not None
    return await gate.log(), head


@pytest.mark.parametrize("remembers", [False, True], ids=["no head", "head"])
async def test_r10_any_line_of_a_branched_log_may_be_damaged(
    gate: Gateway, *, remembers: bool
) -> None:
    log, head = await branched_log(gate)
    lines = [to_line(encode(event)) for event in log]
    for place in range(len(lines)):
        torn = [*lines[:place], b"X" + lines[place][1:], *lines[place + 1 :]]
        found = salvage(make_header("s", 1, 0) + b"".join(torn))
        assert len(found.damaged) == 1
        _, repaired = make_log("s", 2, found, head.copy() if remembers else None)
        seqs = [e["seq"] for e in log if e["type"] == "message" and e is not log[place]]
        for branch in branches_of(repaired):
            path = path_of(repaired, branch.id)
            count = sum(seq in path for seq in seqs)
            assert state_at(repaired, branch.id).message_count == count

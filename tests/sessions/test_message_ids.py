"""A session has each message id once, whoever gives it and whatever happens at the same time."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from bamboo_gateway.domain.errors import (
    BambooError,
    IdempotencyKeyReused,
    InvalidInput,
    MessageExists,
    StorageFailed,
    StorageFull,
)
from bamboo_gateway.domain.events import Complete, MessageSaid, Token
from bamboo_gateway.sessions.commands import Chat, Idempotency, NewMessage, NewSession, Outcome
from bamboo_gateway.sessions.lifecycle.fork import Fork
from bamboo_gateway.sessions.lifecycle.merge_plan import Merge
from tests.support.gateways import DEADLINE_SECONDS, ME, Gateway, crash, gateway, quiet


def user(message_id: str | None, text: str = "hi") -> NewMessage:
    return NewMessage("user", text, id=message_id)


async def post(gate: Gateway, *messages: NewMessage, key: str | None = None) -> Outcome[Any]:
    idem = Idempotency(key, "POST /messages", repr(messages)) if key else None
    return await gate.manager.add_messages(ME, "s", list(messages), idem)


async def chat(gate: Gateway, *messages: NewMessage, **more: Any) -> Outcome[Any]:
    return await gate.manager.chat(ME, Chat(NewSession(id="s"), list(messages), **more))


Send = Callable[..., Awaitable[Outcome]]
both = pytest.mark.parametrize("send", [post, chat])


async def refuse(sent: Awaitable[Outcome], message_id: str = "m") -> None:
    with pytest.raises(MessageExists) as caught:
        await sent
    assert caught.value.code == "message-exists"
    assert not caught.value.retryable
    assert repr(message_id) in caught.value.detail


async def outcomes_of(*calls: Awaitable[Outcome], then: Callable[[], Any]) -> list[Any]:
    """Start calls one after the other, lets `then` go on, and return how each has ended."""
    outcomes: list[Any] = [None] * len(calls)

    async def one(number: int, call: Awaitable[Outcome]) -> None:
        try:
            outcomes[number] = await call
        except BambooError as error:
            outcomes[number] = error

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            for number, call in enumerate(calls):
                tasks.start_soon(one, number, call)
                await quiet()
            then()
    return outcomes


async def ids(gate: Gateway) -> list[str]:
    return [message["id"] for message in await gate.messages()]


@both
async def test_an_id_that_the_session_has_is_refused_and_nothing_is_stored(
    send: Send, gate: Gateway
):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user("m", "first"))
    before = await gate.log()
    await refuse(send(gate, user("m", "second")))
    await refuse(send(gate, user("m", "first")))
    await refuse(send(gate, user(None), user("n"), user("m")))
    assert await gate.log() == before
    await send(gate, user("n"))


@both
async def test_one_id_twice_in_a_list_is_an_invalid_list(send: Send, gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    with pytest.raises(InvalidInput) as caught:
        await send(gate, user("m", "one"), user("n"), user("m", "two"))
    assert caught.value.code == "invalid-id"
    assert await ids(gate) == []


async def test_ids_that_the_gateway_makes_cost_no_look_up(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user(None))
    # Whoever asked the store would wait for ever.
    gate.store.hold("keys_in_use")
    with anyio.fail_after(DEADLINE_SECONDS):
        await post(gate, user(None), user(None))
        await chat(gate, user(None))


async def test_the_ids_that_the_gateway_has_made_are_taken_too(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    [made] = (await post(gate, user(None))).answer["messages"]
    await refuse(post(gate, user(made["id"])), made["id"])


@pytest.mark.parametrize("held", ["keys_in_use", "append", "ack"])
@both
async def test_of_two_at_once_with_one_id_one_is_stored(send: Send, held: str, gate: Gateway):
    """Both have looked before either is stored: the session's writer decides."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user("before"))
    gate.store.hold(held)
    outcomes = await outcomes_of(
        post(gate, user("m", "one")),
        send(gate, user("m", "two")),
        then=lambda: gate.store.let_go(held),
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["MessageExists", "Outcome"]
    assert (await ids(gate)).count("m") == 1


async def test_two_that_create_the_session_at_once_share_no_id(gate: Gateway):
    gate.store.hold_appends()
    outcomes = await outcomes_of(
        chat(gate, user("m", "one")),
        chat(gate, user("m", "two")),
        then=gate.store.release_appends,
    )
    assert isinstance(outcomes[0], Outcome)
    assert isinstance(outcomes[1], MessageExists)
    assert await ids(gate) == ["m"]


async def test_an_id_whose_message_could_not_be_stored_is_free(gate: Gateway):
    """R1: a refusal, too, stands on what is durable."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold_appends()
    outcomes = await outcomes_of(
        post(gate, user("m", "one")),
        post(gate, user("m", "two")),
        then=lambda: gate.store.release_appends(StorageFull("full")),
    )
    assert isinstance(outcomes[0], StorageFull)
    assert isinstance(outcomes[1], Outcome)
    assert [message["content"] for message in await gate.messages()] == ["two"]


async def test_an_id_that_was_stored_though_its_answer_was_lost_is_taken(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    gate.store.hold("keys_in_use")
    gate.store.lie_about_append(1)
    outcomes = await outcomes_of(
        post(gate, user("m", "one")),
        post(gate, user("m", "two")),
        then=lambda: gate.store.let_go("keys_in_use"),
    )
    assert isinstance(outcomes[0], StorageFailed)
    assert isinstance(outcomes[1], MessageExists)
    assert [message["content"] for message in await gate.messages()] == ["one"]


async def test_the_same_request_under_its_key_is_answered_again(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    first = await post(gate, user("m"), key="k")
    again = await post(gate, user("m"), key="k")
    assert again == Outcome(first.answer, replayed=True)
    with pytest.raises(IdempotencyKeyReused):
        await post(gate, user("m", "else"), key="k")
    await refuse(post(gate, user("m"), key="other"))
    assert await ids(gate) == ["m"]


async def test_a_repeat_that_comes_while_the_first_is_looked_up_waits_for_its_answer(
    gate: Gateway,
):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user("before"), key="before")
    gate.store.hold("keys_in_use")
    outcomes = await outcomes_of(
        post(gate, user("m"), key="k"),
        post(gate, user("m"), key="k"),
        then=lambda: gate.store.let_go("keys_in_use"),
    )
    assert outcomes[0].answer == outcomes[1].answer
    assert sorted(outcome.replayed for outcome in outcomes) == [False, True]
    assert (await ids(gate)).count("m") == 1


@both
async def test_an_id_that_waits_in_the_queue_is_taken(send: Send, gate: Gateway):
    await gate.chat(run_id="busy")
    await chat(gate, user("m", "waits"), run_id="next")
    await refuse(send(gate, user("m")))
    await gate.manager.cancel_run(ME, "s", "next")
    # It was never said, and never will be.
    await send(gate, user("m", "free again"))


@both
async def test_an_id_that_waits_in_the_queue_is_taken_after_a_restart(send: Send, gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.open_run(ME, "s", "outside")
    made = (await chat(gate, user("m"), user(None))).answer["message_ids"]
    async with gateway(await crash(gate)) as after:
        for name in made:
            await refuse(send(after, user(name)), name)


async def test_an_id_that_is_queued_while_it_is_looked_up_is_noticed(gate: Gateway):
    await gate.chat(run_id="busy")
    gate.store.hold("keys_in_use")
    outcomes = await outcomes_of(
        post(gate, user("m", "said")),
        chat(gate, user("m", "queued")),
        then=lambda: gate.store.let_go("keys_in_use"),
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["MessageExists", "Outcome"]


@both
async def test_an_id_that_an_agent_is_speaking_under_is_taken(send: Send, gate: Gateway):
    await gate.chat(run_id="r")
    gate.agent.do("r", Token("Hel"))
    await quiet()
    [making] = [event["message_id"] for event in await gate.log() if event["type"] == "token"]
    await refuse(send(gate, user(making)), making)
    gate.agent.do("r", Token("lo"), Complete())
    await gate.ended("r")
    assert (await gate.messages())[-1]["id"] == making
    await refuse(send(gate, user(making)), making)


@both
async def test_an_id_that_an_external_run_speaks_under_is_taken_after_a_restart(
    send: Send, gate: Gateway
):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await gate.manager.open_run(ME, "s", "r")
    await gate.manager.append_events(ME, "s", [{"type": "token", "run_id": "r", "content": "a"}])
    [making] = [event["message_id"] for event in await gate.log() if event["type"] == "token"]
    async with gateway(await crash(gate)) as after:
        await refuse(send(after, user(making)), making)


async def test_an_agent_names_no_message_itself(gate: Gateway):
    """Its message replaces the deltas before it under their id; another one gets a new id."""
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user("m"))
    await chat(gate, user(None), run_id="r")
    own = {"id": "m", "role": "assistant", "content": "one"}
    gate.agent.do("r", Token("o"), MessageSaid(own), MessageSaid(own), Complete())
    await gate.ended("r")
    [making] = [event["message_id"] for event in await gate.log() if event["type"] == "token"]
    said = await gate.messages()
    assert [message["content"] for message in said] == ["hi", "hi", "one", "one"]
    assert said[2]["id"] == making
    assert len({message["id"] for message in said}) == 4


async def test_a_program_outside_names_no_message_itself(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="s"))
    await post(gate, user("m"))
    await gate.manager.open_run(ME, "s", "r")
    own = {"id": "m", "role": "assistant", "content": "one"}
    event = {"type": "message", "run_id": "r", "message": own}
    await gate.manager.append_events(ME, "s", [event, event])
    assert len(set(await ids(gate))) == 3


async def test_an_id_is_taken_in_the_copy_of_a_session_as_well(gate: Gateway):
    await gate.manager.create_session(ME, NewSession(id="a"))
    await gate.manager.add_messages(ME, "a", [user("m")])
    await gate.manager.fork(ME, "a", Fork(new_id="s"))
    await refuse(post(gate, user("m")))
    await gate.manager.create_session(ME, NewSession(id="b"))
    await gate.manager.add_messages(ME, "b", [user("n")])
    await gate.manager.merge(ME, "s", Merge("b"))
    await refuse(post(gate, user("n")), "n")

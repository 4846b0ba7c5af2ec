"""When the feed looks: webhooks are woken by what they are told of, and by nothing else."""

import pytest

from bamboo_gateway.domain.events import Complete, Token
from bamboo_gateway.sessions.commands import Chat, NewMessage, NewSession
from bamboo_gateway.sessions.webhooks import looking
from tests.sessions.webhooks.hooked import ME, Hooked, hooked
from tests.support.gateways import eventually, quiet


@pytest.fixture(autouse=True)
def looking_when_woken_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks by the clock."""
    monkeypatch.setattr(looking, "TICK_SECONDS", 10_000)


async def waits(hooks: Hooked) -> None:
    """Wait until the feed waits to be woken."""
    looker = hooks.manager._webhooks._looker
    await eventually(lambda: looker._stirred.statistics().tasks_waiting > 0)


async def test_what_webhooks_are_told_of_wakes_the_feed() -> None:
    async with hooked() as hooks:
        await hooks.hook()
        await waits(hooks)
        run_id = await hooks.run()
        assert await hooks.tells(2) == [("session.created", "s"), ("run.ended", run_id)]
        await waits(hooks)
        await hooks.manager.delete_session(ME, "s")
        assert (await hooks.tells(3))[-1] == ("session.deleted", "s")


async def test_tokens_wake_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hooked() as hooks:
        await hooks.hook()
        chat = Chat(NewSession("s"), [NewMessage("user", "hi")], run_id="r")
        await hooks.manager.chat(ME, chat)
        await hooks.tells(1)
        await waits(hooks)
        looks = hooks.store.changes
        asked = 0

        async def counted(*args: object) -> object:
            nonlocal asked
            asked += 1
            return await looks(*args)

        monkeypatch.setattr(hooks.store, "changes", counted)
        for _ in range(20):
            hooks.agent.do("r", Token("a word "))
            await quiet()
        assert asked == 0
        hooks.agent.do("r", Complete())
        await hooks.tells(2)
        assert asked

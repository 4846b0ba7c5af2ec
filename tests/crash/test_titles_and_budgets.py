"""A process that is killed forgets no budget, and owes no title for ever."""

from pathlib import Path

import httpx
import pytest

from tests.processes import Gateway
from tests.support.waiting import until

TITLER = "python:tests.crash.test_titles_and_budgets:Titler"


class Titler:
    """Writes a title only in a process that may; the file is made between two of them."""

    async def run(self, turn: object) -> str:
        """Write a title."""
        import os

        import anyio

        if not await anyio.Path(os.environ["TITLER_MAY"]).exists():
            await anyio.sleep_forever()
        return "A fine title"


@pytest.mark.parametrize("store", ["jsonl:", "sqlite:"])
def test_after_a_kill_the_title_is_given_and_the_budget_is_spent(
    tmp_path: Path, store: str
) -> None:
    """R10: what the gateway owes is durable, beside what it has said."""
    may, data = tmp_path / "may", tmp_path / "data"
    data.mkdir()
    settings = {
        "BAMBOO_STORAGE_URL": store,
        "BAMBOO_TITLES": "agent:titler",
        "BAMBOO_MAX_TOKENS_PER_USER_DAY": "1",
        "BAMBOO_AGENTS": f'{{"default":"demo:?delay_ms=0","titler":"{TITLER}"}}',
        "TITLER_MAY": str(may),
    }
    with Gateway(data, settings) as gateway:
        chat = {"message": "Hello there", "session_id": "s"}
        waited = gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=60"})
        assert waited["status"] == "completed"
        before = gateway.call("GET", "/sessions/s")
        assert before["title"] is None
        gateway.kill()
        may.touch()
        gateway.start()
        until(lambda: gateway.call("GET", "/sessions/s")["title"], "the title is given")
        after = gateway.call("GET", "/sessions/s")
        assert after["title"] == "A fine title"
        assert after["preview"] == before["preview"]
        assert after["usage"] == before["usage"]
        given = [one for one in gateway.events("s") if one["type"] == "session_updated"]
        assert [one["title"] for one in given] == ["A fine title"]
        refused = httpx.post(f"{gateway.url}/api/v1/chat", json=chat)
        assert refused.json()["code"] == "budget-reached"

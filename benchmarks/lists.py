"""l. Lists: a page by every filter and order, and the total, with 100,000 sessions.

Below HTTP, through `store.query`, in one process. A page is the second one, by cursor and without
`total`; its figure is the slowest of five orders and two directions, each the best of three. The
sessions have 2,000 users, of whom one has 30 %; a third have a time to live, 2 % are forks of one
session, 0.3 % are scheduled, 0.2 % are shared with one user, 10 titles have a rare word; and 0.6 %
have or just had a stream. Filters by a time beside the order by another one, and titles that few
sessions have, are the slow ones.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from benchmarks.harness import Bench, Row

TITLE = "Lists: a page by every filter and order"
_NOW, _DAY = 1_763_661_234_567, 86_400_000
_PAGE_GOAL, _TOTAL_GOAL = "<= 5", "<= 50"


def run(bench: Bench) -> list[Row]:
    """Measure the store that `--storage` names."""
    config = {
        "directory": str(bench.directory / "lists"),
        "storage": bench.storage,
        "size": bench.pick(100_000, 20_000, 60),
    }
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.lists", json.dumps(config)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    rows = []
    for name, page_ms, total_ms, total in json.loads(child.stdout.splitlines()[-1]):
        absolute: dict[str, Any] = {"goal_is_absolute": True}
        note = [f"{total:,} sessions"]
        rows.append(Row(f"page: {name}", "ms", page_ms, goal=_PAGE_GOAL, notes=note, **absolute))
        rows.append(Row(f"total: {name}", "ms", total_ms, goal=_TOTAL_GOAL, **absolute))
    return rows


async def _measure(config: dict[str, Any]) -> list[tuple[str, float, float, int]]:
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.sessions import Presence
    from bamboo_gateway.settings import load_settings
    from bamboo_gateway.storage.factory import make_store

    settings = load_settings(
        data_dir=config["directory"], storage_url=config["storage"], durability="os"
    )
    store = make_store(settings, SystemClock())
    await store.open()
    size: int = config["size"]
    await _fill(store, size)
    watched = {f"s-{number}" for number in range(0, size, 500)}
    presence = Presence(_NOW, watched, {f"s-{number}" for number in range(1, size, 250)})
    found = []
    for name, filters in _filters():
        page = await _slowest_page(store, presence, filters)
        seconds, total = await _best(store, presence, _query(**filters, limit=2, count=True))
        found.append((name, page * 1000, seconds * 1000, total or 0))
    await store.aclose()
    return found


def _query(**options: Any) -> Any:
    from bamboo_gateway.storage.reports import SessionQuery

    return SessionQuery(**{"count": False, "shared_at": _NOW, **options})


async def _slowest_page(store: Any, presence: Any, filters: dict[str, Any]) -> float:
    slowest = 0.0
    for sort_by in ("last_activity_at", "created_at", "updated_at", "message_count", "title"):
        for descending in (True, False):
            query = _query(**filters, sort_by=sort_by, descending=descending)
            first = await store.query(query, presence)
            query = replace(query, cursor=first.next_cursor)
            slowest = max(slowest, (await _best(store, presence, query))[0])
    return slowest


async def _best(store: Any, presence: Any, query: Any) -> tuple[float, int | None]:
    best, total = 1e9, None
    for _ in range(4):
        started = time.perf_counter()
        total = (await store.query(query, presence)).total
        best = min(best, time.perf_counter() - started)
    return best, total


def _filters() -> Iterator[tuple[str, dict[str, Any]]]:
    from bamboo_gateway.domain.sessions import SessionState

    yield "all", {}
    yield "of a user with 30 %", {"user_id": "heavy"}
    yield "of a user with few", {"user_id": "u-7"}
    for state in get_args(SessionState):
        yield f"state {state}", {"state": state}
    yield "of a user, idle", {"user_id": "heavy", "state": "idle"}
    yield "scheduled (0.3 %)", {"session_type": "scheduled"}
    yield (
        "created in one day",
        {"created_after": _NOW - 80 * _DAY, "created_before": _NOW - 79 * _DAY},
    )
    yield "active in the last day", {"active_after": _NOW - _DAY}
    yield "title: most", {"title_contains": "a"}
    yield "title: 1 in 10,000", {"title_contains": "needle"}
    yield "id prefix", {"id_prefix": "s-123"}
    yield "parent (2 %)", {"parent_id": "s-7"}
    yield "shared", {"shared_with": "guest"}
    yield "archived only", {"archived": "only"}


async def _fill(store: Any, size: int) -> None:
    chance = random.Random(1)
    for first in range(0, size, 1000):
        waiting = []
        for number in range(first, min(size, first + 1000)):
            answered = asyncio.get_running_loop().create_future()
            store.append(_commit(store, chance, number), answered.set_result)
            waiting.append(answered)
        for error in await asyncio.gather(*waiting):
            if error is not None:
                raise error


def _commit(store: Any, chance: random.Random, number: int) -> Any:
    from bamboo_gateway.domain import codec
    from bamboo_gateway.domain.clock import format_ms
    from bamboo_gateway.domain.projections import fold
    from bamboo_gateway.domain.sessions import SessionHead
    from bamboo_gateway.storage.commits import Commit, Event

    created = _NOW - chance.randrange(90 * _DAY)
    active = created + int((_NOW - created) * chance.random() ** 3)
    head = SessionHead(f"s-{number}", store.next_epoch())
    events = []
    for seq, draft in enumerate(_drafts(chance, number, created, active), start=1):
        at = created if seq == 1 else active
        event = {"type": draft["type"], "seq": seq, "time": format_ms(at), **draft}
        fold(head, event)
        events.append(Event(seq, draft["type"], codec.encode(event)))
    return Commit(head.id, head.epoch, 1, events, head=head, time_ms=active, create=True)


def _drafts(
    chance: random.Random, number: int, created: int, active: int
) -> Iterator[dict[str, Any]]:
    from bamboo_gateway.domain.clock import format_ms

    parent = {"session_id": "s-7", "seq": 1} if chance.random() < 0.02 else None
    kind = chance.random()
    words = " ".join(f"{chance.randrange(16**6):06x}" for _ in range(5))
    yield {
        "type": "session_created",
        "user_id": "heavy" if chance.random() < 0.3 else f"u-{chance.randrange(2000)}",
        "title": words + (" needle" if number % 10_000 == 77 else ""),
        "session_type": "scheduled" if kind < 0.003 else "sub_agent" if kind < 0.2 else "user",
        "ttl_seconds": 30 * 86_400 if chance.random() < 0.3 else None,
        "metadata": {"model": "x" * 60},
        "parent": parent,
        "ancestors": [parent] if parent else [],
    }
    if chance.random() < 0.002:
        share = {"id": "share-1", "user_id": "guest", "created_at": format_ms(created)}
        yield {"type": "session_shared", "share": share}
    if active < _NOW - 60 * _DAY and chance.random() < 0.4:
        yield {"type": "state_change", "from": "idle", "to": "archived"}
    elif chance.random() < 0.02:
        yield {"type": "state_change", "from": "idle", "to": "closed"}
    elif chance.random() < 0.002:
        yield {"type": "run_start", "run_id": "run-1", "agent": "default", "message_ids": []}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_measure(json.loads(sys.argv[1])))) + "\n")

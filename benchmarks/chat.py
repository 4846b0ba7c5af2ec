"""Chats through a model server, as products have them: what one costs, and how many one core bears.

A client POSTs a chat and reads its answer as a stream; the server asks a model server, which speaks
word by word. Clients and model server are one C program on the other core (`loadclient/chats.c`),
so all of a server's CPU is its own. The gateway (an `openai:` agent, `durability=fsync`) stores and
syncs all it shows. Its peers relay and keep nothing: FastAPI and sse-starlette by hand with httpx,
the same with OpenAI's client library, and LiteLLM's proxy. The latter two have environments of
their own (`make bench-peers`), and are left out where these are absent.

* CPU a token: chats of 200 words at 50/s, begun 4 ms apart, until all have ended or a time is over
  (what is overloaded would take long). All CPU of the server's process is divided by the words that
  reached their client. A token is a chunk that the model server sent, however it is delivered.
* CPU a chat, and the first word: chats of one word, 50 begin each second. The first word counts
  from the moment the chat was to begin. The gateway syncs the input before the run and each word
  before it is shown: the bound is the peer's p50 and two syncs of this disk, measured alongside.
* One chat alone: how late its words are.
* Capacity: the most chats at 50 words/s whose text arrives with a p99 lag under 100 ms.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import (
    ENVIRONMENTS,
    Bench,
    Row,
    Server,
    client_notes,
    environment,
    median,
    median_ratio,
)
from benchmarks.loadclient import Chats, request

TITLE = "Chats through a model server; the peer is FastAPI + httpx by hand, which keeps nothing"
_BESIDE = "gateway / by hand with httpx"
_BY_HAND, _SDK, _LITELLM = "relay_httpx", "relay_openai", "litellm_proxy"
_TOKEN_CASE = "CPU a token, {} chats"
_CHAT_CASE = "CPU a chat of one word, 50 begin each second"
_FIRST_CASE = "first word, 50 chats begin each second"
_ALONE_CASE = "one chat alone: a word's lag, p50"
_LITELLM_CASE = "CPU a token beside LiteLLM, 200 chats"
_CAPACITY_CASE = "capacity: chats at 50 words/s, p99 lag < 100 ms"
_RATE = 50.0
_WORDS = 200
_BEGINS = 250.0
_ROUND_SECONDS_MAX = 30.0
_LITELLM_SECONDS_MAX = 15.0
"""It needs 8 cores for these chats: it is measured in what it delivers by then."""
_LITELLM_START_SECONDS = 240
_LAG_MS_MAX = 100.0
_STEP = 1.08
_FIRST_CHATS, _CHATS_MAX = 64, 2000
_TOKEN_GOALS = {50: "<= 0.8", 200: "<= 0.8", 500: "<= 0.5"}
_LITELLM_GOAL = "<= 0.15"
_ALONE_MS_MAX = 1.5
_FOREVER = 1_000_000
_SYNCS = 40


def run(bench: Bench) -> list[Row]:
    """Measures every case that is wanted, the servers' rounds alternating."""
    with bench.chats() as chats:
        if chats is None:
            bench.say("  left out: without a C compiler there are no clients for it")
            return []
        rows = _beside_relays(bench, chats)
        if bench.size != "smoke" and bench.wants(_LITELLM_CASE):
            rows += _beside_litellm(bench, chats)
    return rows


def _beside_relays(bench: Bench, chats: Chats) -> list[Row]:
    names = ["gateway", _BY_HAND, *_present(bench, _SDK)]
    sizes = bench.pick((50, 200, 500), (50, 200, 500), (5,))
    wanted = [count for count in sizes if bench.wants(_TOKEN_CASE.format(count))]
    with _servers(bench, chats, *names) as servers:
        rows = [_tokens(bench, chats, servers, count) for count in wanted]
        if bench.wants(_CHAT_CASE) or bench.wants(_FIRST_CASE):
            rows += _begins(bench, chats, servers)
        if bench.size != "smoke" and bench.wants(_ALONE_CASE):
            rows.append(_alone(bench, chats, servers))
        if bench.size != "smoke" and bench.wants(_CAPACITY_CASE):
            rows.append(_capacity(bench, chats, servers))
    return rows


# -- what one costs --------------------------------------------------------------------------------


def _tokens(bench: Bench, chats: Chats, servers: list[Server], count: int) -> Row:
    """Let so many chats speak at once, from their beginnings to their ends."""
    if count > 50:
        servers = _faster(bench, servers)
    runs = bench.pick(3, 1 if count > 50 else 2, 1)
    words = bench.pick(_WORDS, _WORDS, 10)
    found = _rounds(runs, chats, servers, count, begins=_BEGINS, words=words)
    us = {name: [_us_a_word(answer) for answer in found[name]] for name in found}
    return _beside(
        _TOKEN_CASE.format(count),
        "us",
        us,
        goal=_TOKEN_GOALS.get(count),
        runs=runs,
        notes=[_medians("us", us), *_lags(found), *_limits(found)],
    )


def _begins(bench: Bench, chats: Chats, servers: list[Server]) -> list[Row]:
    """Begin 50 chats a second, and look at what each costs and when its first word comes."""
    count = bench.pick(200, 150, 10)
    syncs = [_sync_ms(bench) for _ in range(bench.runs)]
    found = _rounds(bench.runs, chats, servers, count, begins=50, words=1)
    us = {name: [a["server"] / a["ended"] * 1e6 for a in found[name]] for name in found}
    p50 = {name: [a["first_p50_ms"] for a in found[name]] for name in found}
    p99 = {name: [a["first_p99_ms"] for a in found[name]] for name in found}
    bounds = [theirs + 2 * sync for theirs, sync in zip(p50[_BY_HAND], syncs, strict=True)]
    rows = [
        _beside(
            _CHAT_CASE,
            "us",
            us,
            goal="<= 1.0",
            runs=bench.runs,
            notes=[_medians("us", us), *_limits(found)],
        ),
        Row(
            f"{_FIRST_CASE}: p50",
            "ms",
            median(p50["gateway"]),
            median(p50[_BY_HAND]),
            median(bounds),
            ratio=median_ratio(p50["gateway"], bounds),
            of="first word's p50: gateway / (by hand + two syncs of the disk, the limit there)",
            goal="<= 1.0",
            runs=bench.runs,
            notes=[_medians("ms", p50), f"one sync of the disk: {median(syncs):.2f} ms"],
        ),
        _beside(
            f"{_FIRST_CASE}: p99",
            "ms",
            p99,
            runs=bench.runs,
            notes=[_medians("ms", p99)],
        ),
    ]
    return [row for row in rows if bench.wants(row.case)]


def _alone(bench: Bench, chats: Chats, servers: list[Server]) -> Row:
    found = _rounds(bench.runs, chats, servers, 1, begins=1, words=100)
    p50 = {name: [answer["p50_ms"] for answer in found[name]] for name in found}
    return _beside(
        _ALONE_CASE,
        "ms",
        p50,
        goal=f"<= {_ALONE_MS_MAX}",
        goal_is_absolute=True,
        runs=bench.runs,
        notes=_lags(found),
    )


def _beside(case: str, unit: str, found: dict[str, list[float]], **more: Any) -> Row:
    """Return the row that compares the gateway with the relay by hand; `more` is `Row`'s."""
    return Row(
        case,
        unit,
        median(found["gateway"]),
        median(found[_BY_HAND]),
        ratio=median_ratio(found["gateway"], found[_BY_HAND]),
        of=_BESIDE,
        **more,
    )


def _beside_litellm(bench: Bench, chats: Chats) -> list[Row]:
    """Compare with LiteLLM's proxy, which is measured while it is far too busy."""
    peer = _present(bench, _LITELLM)
    if not peer:
        return []
    runs = bench.pick(3, 1, 1)
    with _servers(bench, chats, "gateway", *peer) as servers:
        _wait_for_litellm(servers[1])
        found = _rounds(
            runs,
            chats,
            servers,
            200,
            begins=_BEGINS,
            words=_WORDS,
            seconds_max=_LITELLM_SECONDS_MAX,
        )
    us = {name: [_us_a_word(answer) for answer in found[name]] for name in found}
    return [
        Row(
            _LITELLM_CASE,
            "us",
            median(us["gateway"]),
            median(us[_LITELLM]),
            ratio=median_ratio(us["gateway"], us[_LITELLM]),
            of="beside LiteLLM: gateway / LiteLLM's proxy, which is the peer there",
            goal=_LITELLM_GOAL,
            runs=runs,
            notes=[*_lags(found), *_limits(found)],
        )
    ]


# -- how many one core bears -----------------------------------------------------------------------


def _capacity(bench: Bench, chats: Chats, servers: list[Server]) -> Row:
    servers = _faster(bench, servers)
    most: dict[str, list[float]] = {server.name: [] for server in servers}
    found = []
    runs = bench.pick(3, 1, 1)
    for _ in range(runs):
        for server in servers:
            count, answer = _most_chats(bench, chats, server)
            most[server.name].append(count)
            found.append(answer)
    return _beside(
        _CAPACITY_CASE,
        "chats",
        most,
        goal=">= 2.0",
        runs=runs,
        notes=[_medians("chats", most), *client_notes(found)],
    )


def _most_chats(bench: Bench, chats: Chats, server: Server) -> tuple[int, dict[str, Any]]:
    """Double until it fails, then bisect in steps of 8 %; a failed try is repeated once.

    `--quick` has steps of 17 % and single tries.
    """
    best: tuple[int, dict[str, Any]] = (0, {"cpu": 0.0})
    factor = _STEP ** bench.pick(1, 2, 2)
    low, high = 0, int(math.log(_CHATS_MAX, factor))
    doubling, most = round(math.log(2, factor)), high
    step = round(math.log(_FIRST_CHATS, factor))
    while low < high:
        count = round(factor**step)
        answer = _hold(bench, chats, server, count)
        if bench.size == "full" and not _held(answer, count):
            answer = _hold(bench, chats, server, count)
        if _held(answer, count):
            low, best = step, (count, answer)
        else:
            high = step - 1
        step = (low + high + 1) // 2 if high < most else min(step + doubling, high)
    return best


def _hold(bench: Bench, chats: Chats, server: Server, count: int) -> dict[str, Any]:
    """Let so many chats speak at once for a while, and count once all have begun."""
    settle, seconds = bench.pick((1.0, 3.0), (0.5, 2.0), (0.1, 0.2))
    begins = max(50.0, count / bench.pick(4, 3, 1))
    begun = count / begins + settle
    return _play(
        chats,
        server,
        count,
        begins=begins,
        words=_FOREVER,
        until_seconds=begun + seconds,
        from_seconds=begun,
        give_up_ms=_LAG_MS_MAX,
    )


def _held(answer: dict[str, Any], count: int) -> bool:
    whole = answer["ended"] == count and not answer["failed"] and not answer["gave_up"]
    return bool(whole and answer["p99_ms"] < _LAG_MS_MAX)


# -- what they share -------------------------------------------------------------------------------


def _rounds(
    runs: int, chats: Chats, servers: list[Server], count: int, **options: float
) -> dict[str, list[dict[str, Any]]]:
    """Play the same round several times, the servers alternating, after a short one unmeasured."""
    found: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
    for server in servers:
        _play(chats, server, 10, begins=_BEGINS, words=10)
    for _ in range(runs):
        for server in servers:
            found[server.name].append(_play(chats, server, count, **options))
    return found


def _play(
    chats: Chats,
    server: Server,
    count: int,
    *,
    begins: float,
    words: float,
    until_seconds: float = _ROUND_SECONDS_MAX,
    seconds_max: float = _ROUND_SECONDS_MAX,
    **more: float,
) -> dict[str, Any]:
    """Play a round; `server` in the answer is the CPU that the server used, in seconds."""
    before = server.cpu_seconds()
    answer = chats.play(
        server.port,
        _ask(server.name),
        count,
        begins=begins,
        rate=_RATE,
        words=int(words),
        until_seconds=until_seconds,
        seconds_max=seconds_max,
        **more,
    )
    answer["server"] = server.cpu_seconds() - before
    if answer["ended"] < answer["begun"] or answer["gave_up"]:
        _wait_idle(server)
    elif answer["failed"]:
        raise RuntimeError(f"{server.name}: {answer['failed']} of {count} chats failed")
    elif answer["words"] != (expected := answer["sent"] if words == _FOREVER else count * words):
        raise RuntimeError(f"{server.name}: {answer['words']} of {expected} words came")
    return answer


def _ask(name: str) -> bytes:
    if name == _LITELLM:
        said = {"role": "user", "content": "go"}
        body = {"model": "scripted", "messages": [said], "stream": True}
        return request("POST", "/v1/chat/completions", json.dumps(body).encode())
    body = {"message": "go"}
    return request("POST", "/api/v1/chat", json.dumps(body).encode(), accept="text/event-stream")


@contextmanager
def _servers(bench: Bench, chats: Chats, *names: str) -> Iterator[list[Server]]:
    agents = {"default": f"openai:scripted?base_url=http://127.0.0.1:{chats.upstream}/v1"}
    with bench.servers(*names, upstream=chats.upstream, agents=agents) as servers:
        yield servers


def _wait_for_litellm(server: Server) -> None:
    until = time.monotonic() + _LITELLM_START_SECONDS
    while True:
        try:
            server.call("GET", "/health/liveliness")
        except OSError:
            if time.monotonic() > until or server.process.poll() is not None:
                raise
            time.sleep(0.5)
        else:
            return


def _faster(bench: Bench, servers: list[Server]) -> list[Server]:
    """Leave out the slow peer where `--quick` has no time for it."""
    return [server for server in servers if server.name != _SDK or bench.size == "full"]


def _present(bench: Bench, peer: str) -> list[str]:
    """Return the peer unless its environment is absent, which is said."""
    if bench.size == "smoke":
        return []
    if environment(peer).exists():
        return [peer]
    bench.say(f"  without {peer}: no environment in .venv/{ENVIRONMENTS[peer]}")
    return []


def _wait_idle(server: Server) -> None:
    """Wait until a server that was overloaded has got through what is left."""
    until = time.monotonic() + _ROUND_SECONDS_MAX
    used = server.cpu_seconds()
    while time.monotonic() < until:
        time.sleep(0.3)
        before, used = used, server.cpu_seconds()
        if used - before < 0.1:
            return


def _sync_ms(bench: Bench) -> float:
    """Time what the gateway waits for: a small append and its sync, on the disk of the data."""
    taken = []
    path = bench.directory / "sync"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.pwrite(file, bytes(1 << 20), 0)  # as the journal: preallocated
        os.fsync(file)
        for number in range(_SYNCS):
            started = time.perf_counter()
            os.pwrite(file, b"x" * 400, number * 400)
            os.fdatasync(file)
            taken.append(time.perf_counter() - started)
    finally:
        os.close(file)
        path.unlink()
    return median(taken) * 1000


def _us_a_word(answer: dict[str, Any]) -> float:
    return float(answer["server"] / max(answer["words"], 1) * 1e6)


def _medians(unit: str, values: dict[str, list[float]]) -> str:
    each = ", ".join(f"{name} {median(found):.1f}" for name, found in values.items())
    return f"{unit}: {each}"


def _lags(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Say how late the words were, and what did not come in time."""
    p50 = {name: [answer["p50_ms"] for answer in found[name]] for name in found}
    p99 = {name: [answer["p99_ms"] for answer in found[name]] for name in found}
    notes = [_medians("lag p50 ms", p50), _medians("lag p99 ms", p99)]
    for name, answers in found.items():
        share = median(answer["words"] / max(answer["sent"], 1) for answer in answers)
        if share < 0.995:
            notes.append(f"{name}: time was over when {share:.0%} of the words had come")
    return notes


def _limits(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [note for name, answers in found.items() for note in client_notes(answers, name)]

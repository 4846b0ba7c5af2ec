"""m. Wires: what a frame costs on each protocol beside the native stream, and a fan-out.

Each wire has a gateway of its own, so that rounds alternate between servers that do nothing else.
One reader: the CPU of the server process for a word in bursts, wire : native. Fan-out: deliveries a
second to the readers of one AI SDK chat in bursts, against the hand-written way of `fan_out`, whose
server makes each frame once and keeps a queue for each reader.

AG-UI is joined by a POST, which the load client does not send.
"""

from typing import Any

from bamboo_gateway.wires.openai.ids import response_id
from benchmarks.harness import Bench, Row, Server, client_notes, median, median_ratio

TITLE = "Wires: a frame of each protocol beside the native stream"
_SESSION = "wire"
_BURST = 100
_AGENTS = {"default": "python:benchmarks.producer:agent?allow=*&coalesce=false"}
"""Each word is a frame of its own."""
_GOAL, _FAN_OUT_GOAL = "<= 1.5", ">= 20"
_PATHS = {
    "native": "/api/v1/stream/{session}?run_id={run}",
    "ai-sdk": "/api/v1/ai-sdk/chat/{session}/stream",
    "openai": "/api/v1/openai/v1/responses/{response}?stream=true",
    "durable-streams": "/api/v1/ds/{session}?offset=-1&live=sse",
}


def run(bench: Bench) -> list[Row]:
    """Measure each wire, and the fan-out of the AI SDK."""
    rows = [
        _one_reader(bench, wire)
        for wire in _PATHS
        if wire != "native" and bench.pick(True, True, wire == "ai-sdk")
    ]
    return [*rows, _fan_out(bench, bench.pick(200, 200, 10))]


def _one_reader(bench: Bench, wire: str) -> Row:
    with bench.servers("gateway", "gateway", agents=_AGENTS) as servers:
        found = _measure(bench, servers, [_PATHS["native"], _PATHS[wire]], 1)
    native, ours = ([one["us"] for one in answers] for answers in found)
    return Row(
        f"{wire}, one reader",
        "CPU us/frame",
        median(ours),
        median(native),
        ratio=median_ratio(ours, native),
        of="wire / native",
        goal=_GOAL,
        runs=bench.runs,
        notes=client_notes(found[1]),
    )


def _fan_out(bench: Bench, readers: int) -> Row:
    with bench.servers("gateway", "handwritten") as servers:
        found = _measure(bench, servers, [_PATHS["ai-sdk"], "/api/v1/stream/{session}"], readers)
    ours, by_hand = ([one["words"] / one["elapsed"] for one in answers] for answers in found)
    return Row(
        f"ai-sdk, {readers} readers, bursts of {_BURST}",
        "deliveries/s",
        median(ours),
        median(by_hand),
        ratio=median_ratio(ours, by_hand),
        of="gateway / hand-written",
        goal=_FAN_OUT_GOAL,
        runs=bench.runs,
        notes=client_notes(found[0]),
    )


def _measure(
    bench: Bench, servers: list[Server], paths: list[str], readers: int
) -> list[list[dict[str, Any]]]:
    """Return the answers of the load client for each server, whose rounds alternate."""
    seconds = bench.pick(1.5, 0.7, 0.15)
    found: list[list[dict[str, Any]]] = [[] for _ in servers]
    streams = []
    try:
        for server, path in zip(servers, paths, strict=True):
            server.call("POST", "/api/v1/sessions", {"id": _SESSION})
            body = {"session_id": _SESSION, "message": "go", "options": {"mode": "loop"}}
            # The run begins before the readers come: some protocols have no stream without one.
            begun = server.call("POST", "/api/v1/chat", body) or {}
            run_id = begun.get("run_id", "")
            known = {"session": _SESSION, "run": run_id}
            if "{response}" in path:
                known["response"] = response_id(_SESSION, run_id)
            streams.append(bench.readers(server, [path.format(**known)] * readers))
            streams[-1].loop(server.control, _BURST, seconds / 3)
        for _ in range(bench.runs):
            for answers, server, opened in zip(found, servers, streams, strict=True):
                before = server.stats()["cpu_seconds"]
                answer = opened.loop(server.control, _BURST, seconds)
                used = server.stats()["cpu_seconds"] - before
                answer["us"] = used / answer["words"] * 1e6
                expected = answer["rounds"] * _BURST
                if not answer["least"] == answer["most"] == expected:
                    raise RuntimeError(f"{server.name}: {answer} instead of {expected} each")
                answers.append(answer)
    finally:
        for server in servers:
            server.tell("go 0")
        for opened in streams:
            opened.close()
        for server in servers:
            server.wait_idle()
    return found

"""f. REST: small calls a second, the gateway against the same routes in bare FastAPI.

Both answer bodies of the same shape, over 32 keep-alive connections, each to a session of its own.
Bare FastAPI reads and writes a dict in memory; the gateway checks, folds, and syncs what is posted
before it answers (`POST` of a message: one sync serves all that wait).
"""

import json
from typing import Any

from benchmarks.harness import Bench, Row, client_notes, median, median_ratio
from benchmarks.loadclient import request

TITLE = "REST: small calls/s beside bare FastAPI"
_NAMES = ("gateway", "bare_fastapi")


def run(bench: Bench) -> list[Row]:
    """Measures each route, both servers alternating."""
    connections = bench.pick(32, 32, 4)
    sessions = [f"rest-{number}" for number in range(connections)]
    message = {"role": "user", "content": "the quick brown fox"}
    posted = json.dumps(message).encode()
    routes = {
        "GET /health/live": [request("GET", "/api/v1/health/live")],
        "GET /sessions/{id}": [request("GET", f"/api/v1/sessions/{s}") for s in sessions],
        "GET /sessions/{id}/messages?limit=10": [
            request("GET", f"/api/v1/sessions/{s}/messages?limit=10") for s in sessions
        ],
        "POST /sessions/{id}/messages": [
            request("POST", f"/api/v1/sessions/{s}/messages", posted) for s in sessions
        ],
    }
    with bench.servers(*_NAMES) as servers:
        for server in servers:
            for session in sessions:
                new = {"id": session, "title": "A chat", "user_id": "u-1", "metadata": {"a": 1}}
                server.call("POST", "/api/v1/sessions", new)
                for _ in range(10):
                    server.call("POST", f"/api/v1/sessions/{session}/messages", message)
        rows = []
        for route, requests in routes.items():
            found: dict[str, list[dict[str, Any]]] = {name: [] for name in _NAMES}
            for _ in range(bench.runs):
                for server in servers:
                    answer = bench.load(server, requests, connections, bench.pick(1.5, 0.7, 0.2))
                    found[server.name].append(answer)
            rates = {n: [a["answers"] / a["elapsed"] for a in found[n]] for n in _NAMES}
            p99 = ", ".join(f"{n} {median(a['p99_ms'] for a in found[n]):.1f}" for n in _NAMES)
            rows.append(
                Row(
                    route,
                    "requests/s",
                    median(rates["gateway"]),
                    median(rates["bare_fastapi"]),
                    ratio=median_ratio(rates["gateway"], rates["bare_fastapi"]),
                    of="gateway / bare FastAPI",
                    goal=">= 0.6",
                    runs=bench.runs,
                    notes=[
                        f"p99 ms: {p99}",
                        *(note for n in _NAMES for note in client_notes(found[n], n)),
                    ],
                )
            )
    return rows

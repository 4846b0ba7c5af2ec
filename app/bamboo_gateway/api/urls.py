"""The API's own URLs, as answers and `Location` headers name them.

The core names sessions, runs and positions, and knows no URL. A URL begins with the prefix of the
request that it answers (`api.prefix`), also where the answer is an earlier one's.
"""

from collections.abc import Mapping
from typing import Any, Final

from bamboo_gateway.domain.positions import Position

API: Final = "/api/v1"


def session_url(session_id: str, prefix: str) -> str:
    """Return the path of a session."""
    return f"{prefix}{API}/sessions/{session_id}"


def share_url(session_id: str, share_id: str, prefix: str) -> str:
    """Return the path of a share of a session."""
    return f"{session_url(session_id, prefix)}/shares/{share_id}"


def run_url(session_id: str, run_id: str, prefix: str) -> str:
    """Return the path of a run."""
    return f"{session_url(session_id, prefix)}/runs/{run_id}"


def stream_url(
    session_id: str, after: Position | str, prefix: str, run_id: str | None = None
) -> str:
    """Return the path of the stream of a session's events after a position."""
    until = f"&run_id={run_id}" if run_id is not None else ""
    return f"{prefix}{API}/stream/{session_id}?after={after}{until}"


def session_answer(view: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the contract's Session: with `stream_url` in the place of `stream_after`.

    An answer that an earlier version kept for an idempotency key has its `stream_url` already,
    without a prefix.
    """
    shown: dict[str, Any] = {}
    for name, value in view.items():
        if name == "stream_after":
            shown["stream_url"] = stream_url(view["id"], value, prefix)
        elif name == "stream_url":
            shown[name] = prefix + value
        else:
            shown[name] = value
    return shown


def archived_answer(archived: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the contract's ArchivedSession."""
    return {**archived, "session": session_answer(archived["session"], prefix)}


def run_answer(run: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the contract's Run: with `stream_url` behind its own members."""
    shown: dict[str, Any] = {}
    for name, value in run.items():
        if name == "stream_url":  # kept by an earlier version
            continue
        shown[name] = value
        if name == "error":
            shown["stream_url"] = stream_url(
                run["session_id"], run["position"], prefix, run["run_id"]
            )
    return shown


def inputs_answer(taken: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the contract's answer to answers that were accepted."""
    run_id = taken.get("run_id")
    url = stream_url(taken["session_id"], taken["position"], prefix, run_id)
    return {
        "session_id": taken["session_id"],
        "run_id": run_id,
        "position": taken["position"],
        "stream_url": url,
    }


def chat_answer(turn: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the contract's answer to a turn that was accepted."""
    url = stream_url(turn["session_id"], turn["position"], prefix, turn["run_id"])
    return {**turn, "stream_url": url}

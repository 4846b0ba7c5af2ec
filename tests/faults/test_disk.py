"""R1, R3, R8, R9, R10 over HTTP: each of the gateway's file system calls fails once.

A front end does a bit of everything. Each request has a key and is repeated while the answer says
that it may be. Whichever call fails, everything is there once in the end, and again after a
restart or a crash, by every way to look at it; the files are in order; and a session that somebody
else reads notices nothing.
"""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.domain.events import TERMINAL_TYPES
from bamboo_gateway.storage.factory import check_store
from bamboo_gateway.storage.file_system import FileSystem
from tests.api.serving import Served, check_problem, serving
from tests.faults.wire import Wire
from tests.storage.faults import FaultyFileSystem, copy_of
from tests.support.gateways import settings_of
from tests.support.seen import check_what_people_see

# Two may be lost to one fault: where undoing what failed takes the head from the store again.
ATTEMPTS_MAX = 5
# How the gateway ends, and how often it makes checkpoints until then. With as many as can be their
# calls fail too, at each place among the others; with none but what a failure asks for, the journal
# alone knows what was acknowledged.
ENDS = {"stopped": 0.02, "crashed": 3600.0}
SAID = [["first", "second", "third"]]
ERRORS = [errno.EIO, errno.ENOSPC, errno.EMFILE]


class FrontEnd:
    """A client that repeats what was refused for the disk's sake."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http
        self._requests = 0

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the answer that is no refusal of the disk's, of the same request each time."""
        self._requests += 1
        headers = {"Idempotency-Key": f"k{self._requests}"} if method == "POST" else {}
        headers |= options.pop("headers", {})
        response = self.http.request(method, path, headers=headers, **options)
        for _ in range(ATTEMPTS_MAX):
            if response.status_code != 503:
                return response
            check_problem(response)
            problem = response.json()
            assert problem["code"] in {"storage-failed", "storage-full", "unavailable"}, problem
            assert problem["retryable"]
            response = self.http.request(method, path, headers=headers, **options)
        pytest.fail(f"{method} {path} was refused again and again: {response.text}")

    def made(self, method: str, path: str, **options: Any) -> Any:
        """As calling it; the answer has to be a success."""
        response = self(method, path, **options)
        assert response.is_success, (method, path, response.text)
        return response.json() if response.content else None

    def events(self, session_id: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = self.made(
            "GET", f"/sessions/{session_id}/events", params={"limit": 1000}
        )["events"]
        return events


def a_bit_of_everything(ask: FrontEnd) -> None:
    """What a front end does, in the sessions `s` and `copy`."""
    ask.made("POST", "/sessions", json={"id": "s"})
    ask.made("POST", "/sessions/s/messages", json={"role": "user", "content": "first"})
    values = [{"type": "custom", "name": "n", "value": number} for number in (1, 2)]
    ask.made("POST", "/sessions/s/events", json=values)
    lines = b"".join(b'{"type":"custom","name":"n","value":%d}\n' % number for number in (3, 4))
    kind = {"Content-Type": "application/x-ndjson"}
    ask.made("POST", "/sessions/s/events", content=lines, headers=kind)
    chat = {"session_id": "s", "message": "second", "run_id": "r", "options": {"delay_ms": 0}}
    ask.made("POST", "/chat", json=chat)
    ask.made("GET", "/sessions/s/runs/r", headers={"Prefer": "wait=60"})
    ask.made("PATCH", "/sessions/s", json={"title": "named"})
    ask.made("POST", "/sessions/s/fork", json={"new_id": "copy"})
    ask.made("POST", "/sessions/copy/messages", json={"role": "user", "content": "third"})
    ask.made("POST", "/sessions/copy/archive")
    ask.made("POST", "/sessions/copy/restore")
    ask.made("POST", "/sessions/s/merge", json={"source_id": "copy"})
    deleted = ask("DELETE", "/sessions/copy")
    # It may be gone though its files could not be removed, which was said then.
    assert deleted.status_code in {204, 404}, deleted.text


def check_once(ask: FrontEnd) -> list[dict[str, Any]]:
    """See that all of it is there once; return the log."""
    log = ask.events("s")
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    assert [event["value"] for event in log if event["type"] == "custom"] == [1, 2, 3, 4]
    messages = [event["message"] for event in log if event["type"] == "message"]
    said = [message["content"] for message in messages if message["role"] == "user"]
    assert said == ["first", "second", "third"]
    assert [event["run_id"] for event in log if event["type"] in TERMINAL_TYPES] == ["r"]
    session = ask.made("GET", "/sessions/s")
    assert (session["title"], session["state"]) == ("named", "idle")
    assert ask("GET", "/sessions/copy").status_code == 404
    return log


@contextmanager
def gateway_on(
    root: Path, fs: FileSystem, end: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """Run a gateway whose engine calls this file system."""
    monkeypatch.setattr("bamboo_gateway.storage.jsonl.store.FileSystem", lambda: fs)
    with serving(
        storage_url="jsonl:", data_dir=root, checkpoint_interval_seconds=ENDS[end]
    ) as served:
        yield served


def run_with_a_fault(
    root: Path, nth: int | None, error: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> int:
    """Make the nth call after the start fail; return how many there were, the end included."""
    fs = FaultyFileSystem()
    with ExitStack() as stack:
        served = stack.enter_context(gateway_on(root, fs, end, monkeypatch))
        ask = FrontEnd(stack.enter_context(served.client()))
        ask.made("POST", "/sessions", json={"id": "other"})
        reader = Wire(served.port, "/stream/other")
        stack.callback(reader.sock.close)
        reader.take_until(b"\r\n\r\n")
        reader.take_frame(b"open")
        before = fs.calls
        if nth is not None:
            fs.should_fail = lambda number, *_: error if number == before + nth else None
        a_bit_of_everything(ask)
        log = check_once(ask)
        check_what_people_see(ask.http, {"s": SAID}, copies=False)
        ask.made("POST", "/sessions/other/messages", json={"role": "user", "content": "still"})
        reader.take_frame(b"still")
        # The first message gives the session its title, right behind it.
        types = [frame.data["type"] for frame in reader.frames]
        assert types in (["open", "message"], ["open", "message", "session_updated"])
        if end == "crashed":
            # What `kill -9` would leave: the files as they all are at one moment.
            with fs.lock:
                root = copy_of(root, root.with_name(f"{root.name}-crashed"))
    with (
        gateway_on(root, FileSystem(), end, monkeypatch) as served,
        served.client() as http,
    ):
        ask = FrontEnd(http)
        assert check_once(ask) == log
        types = [event["type"] for event in ask.events("other")]
        assert types == ["session_created", "message", "session_updated"]
        check_what_people_see(http, {"s": SAID})
    assert [
        one
        for one in check_store(settings_of(storage_url="jsonl:", data_dir=root), SystemClock())
        if one.is_open
    ] == []
    return fs.calls - before


def run_with_each(
    root: Path, end: str, errors: list[int], step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Make each call fail in its turn, or each `step`th of them; the errors take turns too."""
    calls = run_with_a_fault(root / "whole", None, 0, end, monkeypatch)
    assert calls > step * len(errors)
    for place, nth in enumerate(range(1, calls, step)):
        error = errors[place % len(errors)]
        try:
            run_with_a_fault(root / str(nth), nth, error, end, monkeypatch)
        except BaseException as failure:
            failure.add_note(f"call {nth} failed with {errno.errorcode[error]}")
            raise


@pytest.mark.parametrize("end", ENDS)
def test_r1_r3_r9_r10_a_client_has_everything_once_whichever_disk_call_fails(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_each(tmp_path, end, ERRORS, 13, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("end", ENDS)
def test_r1_r3_r9_r10_a_client_has_everything_once_though_every_disk_call_fails_in_turn(
    end: str, error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_each(tmp_path, end, [error], 1, monkeypatch)

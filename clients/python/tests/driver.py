"""The driver of the Python client: plays scenarios with it, as clients/scenarios/README.md says.

    python clients/python/tests/driver.py sync|async

Both clients have the same calls. The driver of the synchronous one reads in threads.
"""

import json
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

import anyio.from_thread

from bamboo_gateway_client import (
    AsyncGateway,
    Conversation,
    Gateway,
    GatewayError,
    ProblemError,
    Retries,
    RunFailedError,
    UnreachableError,
    text_of,
)

Command = dict[str, Any]


class Reading:
    """A stream, or a conversation, that a thread reads in the background."""

    def __init__(self, stream: Any, *, folds: bool) -> None:
        self.events: list[Any] = []
        self.messages: list[Any] = []
        self.failure: BaseException | None = None
        self.stopped = False
        self._stream = stream
        self._folds = folds
        self._changed = threading.Condition()
        self._over = False
        self.thread: threading.Thread | None = None

    def take(self, item: Any) -> bool:
        """Take what came; return whether more is wanted."""
        with self._changed:
            if not self._folds:
                self.events.append(item)
            else:
                self.messages = item.messages
                if item.last_event is not None:
                    self.events.append(item.last_event)
            self._changed.notify_all()
            return not self.stopped

    def end(self, failure: BaseException | None) -> None:
        with self._changed:
            self.failure = failure
            self._over = True
            self._changed.notify_all()

    def until(self, come: Callable[[], bool], what: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: come() or self._over)
            if self.failure:
                raise self.failure
            if not come():
                raise RuntimeError(f"it ended without {what}; {len(self.events)} events came")

    def ended(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._over)
            if self.failure:
                raise self.failure

    def value(self) -> dict[str, Any]:
        with self._changed:
            goodbye = getattr(self._stream, "goodbye", None)
            return {
                "events": list(self.events),
                "messages": list(self.messages),
                "goodbye": goodbye,
            }


class Driver:
    """Plays the commands with the synchronous client."""

    def __init__(self) -> None:
        self.gateway: Any = None
        self.runs: dict[str, Any] = {}
        self.readings: dict[str, Reading] = {}

    # What differs between the two clients.

    def make(self, *arguments: Any, **named: Any) -> Any:
        return Gateway(*arguments, **named)

    def do(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    def all_of(self, items: Iterable[Any]) -> list[Any]:
        return list(items)

    def read(self, reading: Reading, items: Any) -> None:
        def work() -> None:
            failure = None
            try:
                for item in items:
                    if not reading.take(item):
                        break
            except Exception as error:  # noqa: BLE001  it is told to who asks for the reading
                failure = error
            reading.end(failure)

        reading.thread = threading.Thread(target=work, daemon=True)
        reading.thread.start()

    # The commands.

    def play(self, command: Command) -> Any:
        name = command.pop("do")
        return getattr(self, f"on_{name}")(**command)

    def on_connect(
        self,
        url: str,
        api_key: str | None = None,
        retry_seconds_max: float = 15.0,
        silence_seconds: float = 60.0,
        attempts: int = 4,
    ) -> Any:
        self.runs, self.readings = {}, {}
        self.gateway = self.make(
            url,
            api_key,
            retries=Retries(attempts, retry_seconds_max),
            silence_seconds=silence_seconds,
        )
        return {}

    def on_create(self, session: str, **more: Any) -> Any:
        self.do(self.gateway.sessions.create, session, **more)
        return self.on_session(session)

    def on_session(self, session: str) -> Any:
        return self.do(self.gateway.sessions.get, session)

    def on_list(self, page_size: int = 100, **filters: Any) -> Any:
        found = self.all_of(self.gateway.sessions.list(page_size=page_size, **filters))
        return {"ids": [session["id"] for session in found]}

    def on_delete(self, session: str) -> Any:
        self.do(self.gateway.sessions.delete, session)
        return {}

    def on_chat(
        self, message: Any, session: str | None = None, *, as_: str = "", **more: Any
    ) -> Any:
        say = self.gateway.chat if session is None else self.gateway.session(session).chat
        return self._began(as_, self.do(say, message, **more))

    def on_regenerate(
        self, session: str, message_id: str | None = None, *, as_: str = "", **more: Any
    ) -> Any:
        again = self.gateway.session(session).regenerate
        return self._began(as_, self.do(again, message_id, **more))

    def on_answer(self, session: str, answers: Any, as_: str) -> Any:
        run = self.do(self.gateway.session(session).answer, answers)
        return {"run_id": None} if run is None else self._began(as_, run)

    def _began(self, name: str, run: Any) -> Any:
        self.runs[name] = run
        return {"session_id": run.session_id, "run_id": run.id}

    def on_wait(self, as_: str) -> Any:
        run = self.do(self.runs[as_].wait)
        return {"status": run["status"], "text": text_of(run.get("message"))}

    def on_text(self, as_: str) -> Any:
        return {"text": self.do(self.runs[as_].text)}

    def on_run_events(self, as_: str) -> Any:
        return {"events": self.all_of(self.runs[as_])}

    def on_cancel(self, as_: str) -> Any:
        return {"status": self.do(self.runs[as_].cancel)["status"]}

    def on_inputs(self, session: str) -> Any:
        return {"inputs": self.do(self.gateway.session(session).inputs)}

    def on_branches(self, session: str) -> Any:
        return {"branches": self.do(self.gateway.session(session).branches)}

    def on_select(self, session: str, branch_id: str) -> Any:
        self.do(self.gateway.session(session).select_branch, branch_id)
        return {}

    def on_messages(self, session: str, **more: Any) -> Any:
        return {"messages": self.all_of(self.gateway.session(session).messages(**more))}

    def on_upload(self, text: str, name: str, media_type: str) -> Any:
        upload = self.gateway.files.upload
        return self.do(upload, text.encode(), name=name, media_type=media_type)

    def on_download(self, file_id: str) -> Any:
        return {"text": self.do(self.gateway.files.read, file_id).decode()}

    def on_stream(self, as_: str, session: str, **more: Any) -> Any:
        return self._begin(as_, self.gateway.session(session).stream(**more))

    def on_joint(self, as_: str, sessions: list[str]) -> Any:
        return self._begin(as_, self.gateway.stream(sessions, from_start=True))

    def on_changes(self, as_: str, **more: Any) -> Any:
        return self._begin(as_, self.gateway.changes(**more))

    def on_follow(self, as_: str, session: str) -> Any:
        return self._begin(as_, self.gateway.session(session).follow(), folds=True)

    def _begin(self, name: str, stream: Any, *, folds: bool = False) -> Any:
        reading = self.readings[name] = Reading(stream, folds=folds)
        self.read(reading, stream)
        return {}

    def on_saw(self, as_: str, type: str | None = None, count: int = 1, **more: Any) -> Any:  # noqa: A002
        reading, session = self.readings[as_], more.get("session")

        def come() -> bool:
            found = [
                event
                for event in reading.events
                if (type is None or event["type"] == type)
                and (session is None or event["session_id"] == session)
            ]
            return len(found) >= count

        reading.until(come, f"{count} {type or 'events'}")
        return {}

    def on_shows(self, as_: str, text: str, status: str | None = None) -> Any:
        reading = self.readings[as_]

        def come() -> bool:
            last = reading.messages[-1] if reading.messages else None
            return text_of(last) == text and (status is None or last["status"] == status)

        reading.until(come, f"the text {text[:50]!r}")
        return {}

    def on_ended(self, as_: str) -> Any:
        self.readings[as_].ended()
        return self.readings[as_].value()

    def on_read(self, as_: str) -> Any:
        return self.readings[as_].value()

    def on_stop(self, as_: str) -> Any:
        self.readings[as_].stopped = True
        return self.readings[as_].value()


class AsyncDriver(Driver):
    """Plays them with the asynchronous one, whose event loop runs in a thread of its own."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal) -> None:
        super().__init__()
        self._portal = portal

    def make(self, *arguments: Any, **named: Any) -> Any:
        return AsyncGateway(*arguments, **named)

    def do(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        async def called() -> Any:
            return await function(*arguments, **named)

        return self._portal.call(called)

    def all_of(self, items: Any) -> list[Any]:
        async def listed() -> list[Any]:
            return [item async for item in items]

        return self._portal.call(listed)

    def read(self, reading: Reading, items: Any) -> None:
        async def work() -> None:
            failure = None
            try:
                async for item in items:
                    if not reading.take(item):
                        break
            except Exception as error:  # noqa: BLE001  it is told to who asks for the reading
                failure = error
            reading.end(failure)

        self._portal.start_task_soon(work)


def error_of(failure: Exception) -> dict[str, Any]:
    match failure:
        case ProblemError():
            return {"kind": "problem", "status": failure.status, "code": failure.code}
        case UnreachableError():
            return {"kind": "unreachable", "detail": str(failure)}
        case RunFailedError():
            return {"kind": "run_failed", "status": failure.status, "code": failure.code}
        case _:
            return {"kind": "other", "detail": f"{type(failure).__name__}: {failure}"}


def serve(driver: Driver) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {"id": command.pop("id")}
        if "as" in command:
            command["as_"] = command.pop("as")
        try:
            answer["value"] = driver.play(command)
        except (GatewayError, RuntimeError, TimeoutError, TypeError) as failure:
            answer["error"] = error_of(failure)
        print(json.dumps(answer), flush=True)


def main() -> None:
    assert Conversation is not None
    if sys.argv[1] == "sync":
        serve(Driver())
        return
    with anyio.from_thread.start_blocking_portal() as portal:
        serve(AsyncDriver(portal))
        portal.call(portal.stop, True)


if __name__ == "__main__":
    main()

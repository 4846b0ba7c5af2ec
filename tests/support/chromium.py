"""Pages in a real Chromium, driven through the pipe of its debugging protocol.

It needs no driver program: Chromium reads commands from file descriptor 3 and answers at 4, each
ended by a zero byte.
"""

import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

from tests.processes import environment, program
from tests.support.waiting import until

ANSWER_SECONDS = 120.0

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-pipe",
)


class Chromium:
    """One browser; its pages share cookies, and are closed with it."""

    def __init__(self, directory: Path) -> None:
        browser = program("chromium", "chromium-browser", "google-chrome")
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        flags = [*_FLAGS, f"--user-data-dir={directory / 'profile'}", "about:blank"]
        # The shell gives the pipes the numbers that Chromium expects.
        script = f'exec "$@" 3<&{commands} 4>&{answers}'
        with (directory / "chromium.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "bash", browser, *flags],
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(commands, answers),
            )
        os.close(commands)
        os.close(answers)
        self._number = 0
        self._targets: list[str] = []
        self._answered: dict[int, dict[str, Any]] = {}
        self._news = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read, name="chromium")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(ANSWER_SECONDS)
        self._reader.join(ANSWER_SECONDS)
        os.close(self._commands)
        os.close(self._answers)

    def open(self, url: str) -> "Page":
        """Open a page in a tab of its own."""
        target = self.call("Target.createTarget", {"url": url})["targetId"]
        self._targets.append(target)
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        return Page(self, attached["sessionId"])

    def close_pages(self) -> None:
        """Close all tabs: those of one server share six connections."""
        while self._targets:
            self.call("Target.closeTarget", {"targetId": self._targets.pop()})

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        """Return the result of a command."""
        with self._news:
            self._number += 1
            number = self._number
        command = {"id": number, "method": method, "params": params}
        if session is not None:
            command["sessionId"] = session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        with self._news:
            self._news.wait_for(lambda: number in self._answered or self._has_ended, ANSWER_SECONDS)
            answer = self._answered.pop(number, {"error": "no answer"})
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> None:
        rest = b""
        while chunk := os.read(self._answers, 1 << 16):
            *whole, rest = (rest + chunk).split(b"\0")
            with self._news:
                for text in whole:
                    answer = json.loads(text)
                    if "id" in answer:
                        self._answered[answer["id"]] = answer
                self._news.notify_all()
        with self._news:
            self._has_ended = True
            self._news.notify_all()


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> Any:
        """Return the result of a command to this tab."""
        return self._browser.call(method, params, self._session)

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        return until(
            lambda: self.value(expression),
            lambda: f"{expression}\nThe page: {self.value('document.body?.innerHTML')}",
        )

    def reload(self) -> None:
        """Load the page again."""
        self.call("Page.reload")

    def go_offline(self, offline: bool = True) -> None:
        """Take the network from the tab, or give it back."""
        self.call(
            "Network.emulateNetworkConditions",
            offline=offline,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

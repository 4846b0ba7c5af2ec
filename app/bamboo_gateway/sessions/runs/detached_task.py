"""Detached tasks: they run an agent's code, and leave it behind when it does not stop.

A detached task is no child of a task group. A group waits for its children, and code that swallows
its cancellation would keep its session, and the process, from ever ending. It is the one task of
this program without a parent. What such code raises never acts as the gateway's own exit or
cancellation.
"""

import asyncio
from asyncio.tasks import _unregister_task
from collections.abc import Awaitable, Callable

import anyio

_AGAIN_SECONDS = 0.01
_AGAIN_SECONDS_MAX = 1.0
"""The longest wait between repeated cancellations of code that swallows them. A cancel scope would
repeat them at every step of the loop: code that never ends would keep the processor busy."""


class ForeignExitError(Exception):
    """The code raised no error but an exit, or a cancellation that nobody requested."""


class DetachedTask:
    """Runs an agent's code, once.

    Args:
        seconds: How long the code may take to end after it was cancelled.

    Attributes:
        was_left: Whether the code was left behind, still running.
    """

    def __init__(self, seconds: float) -> None:
        self.was_left = False
        self._seconds = seconds
        self._is_left = False
        # Made when the code is cancelled: most code never is.
        self._patience: anyio.CancelScope | None = None

    def leave(self) -> None:
        """Stop waiting for code that was cancelled."""
        self._is_left = True
        if self._patience is not None:
            self._patience.cancel()

    async def run(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        """Run the work. When cancelled, cancel the work and end once it has ended.

        Raises:
            Exception: What the work raises.
            ForeignExitError: The work raised what is no `Exception`.
        """
        outcome: BaseException | None = None

        async def contained() -> None:
            nonlocal outcome
            try:
                await work()
            except BaseException as error:  # noqa: BLE001  an exit would end the whole process
                outcome = error

        task = asyncio.get_running_loop().create_task(contained(), name=name)
        ended = asyncio.Event()
        task.add_done_callback(lambda _: ended.set())
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            await self._stop(task, ended)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            raise ForeignExitError from outcome

    async def _stop(self, task: "asyncio.Task[None]", ended: asyncio.Event) -> None:
        seconds = _AGAIN_SECONDS
        until = anyio.current_time() + self._seconds
        with anyio.CancelScope(deadline=until, shield=True) as self._patience:
            if self._is_left:
                self._patience.cancel()
            while not ended.is_set():
                task.cancel()
                with anyio.move_on_after(seconds):
                    await ended.wait()
                seconds = min(2 * seconds, _AGAIN_SECONDS_MAX)
        if not ended.is_set():
            self.was_left = True
            # The loop's own shutdown would never stop waiting for it.
            _unregister_task(task)

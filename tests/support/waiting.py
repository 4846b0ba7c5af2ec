"""Waiting for what other threads and processes do: they send no signal, so a test has to look."""

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import pytest

SECONDS = 120.0
"""The deadline of every wait: longer than anything takes, however busy the machine is."""

T = TypeVar("T")


def until(condition: Callable[[], T], what: str | Callable[[], str], seconds: float = SECONDS) -> T:
    """Wait until `condition` returns something true, and return that.

    Args:
        condition: Called every few milliseconds at first, and forty times a second after a while:
            asking again and again takes the time of what is waited for.
        what: What is waited for, as the failure names it. A function is called only on failure.
        seconds: The test fails after this time.
    """
    deadline = time.monotonic() + seconds
    pause = 0.002
    while not (result := condition()):
        if time.monotonic() > deadline:
            why = what if isinstance(what, str) else what()
            pytest.fail(f"waited {seconds:g} s in vain until {why}")
        time.sleep(pause)
        pause = min(pause * 1.3, 0.025)
    return result


async def until_true(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float = SECONDS
) -> None:
    """Wait until `condition` returns true, or is awaited so, while the event loop goes on."""
    with anyio.fail_after(seconds):
        while not await _is_true(condition):  # noqa: ASYNC110 - threads set no event to await
            await anyio.sleep(0.005)


async def _is_true(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return await answer if isinstance(answer, Awaitable) else answer

"""When a request is sent again, and how long a client waits before that."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bamboo_gateway_client.errors import GatewayError, ProblemError, UnreachableError

FIRST_SECONDS = 0.5
# A gateway that stays away is asked four times a minute.
SECONDS_MAX = 15.0
# Who waits for an answer prefers an error to a longer pause: a budget is full until tomorrow.
RETRY_AFTER_SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a request is sent, and the pauses between.

    Attributes:
        attempts: How often in all; 1 sends every request once.
        seconds_max: The longest pause that the client chooses by itself. `Retry-After` may ask for
            a longer one.
    """

    attempts: int = 4
    seconds_max: float = SECONDS_MAX

    def pause_after(self, failure: GatewayError, attempt: int) -> float | None:
        """Return the seconds to wait after the attempt of this number (from 0); None: give up."""
        if attempt + 1 >= self.attempts:
            return None
        if isinstance(failure, ProblemError):
            wanted = failure.retry_after_seconds
            if not failure.is_passing or (wanted or 0) > RETRY_AFTER_SECONDS_MAX:
                return None
            if wanted is not None:
                return wanted
        elif not isinstance(failure, UnreachableError):
            return None
        return self.backoff(FIRST_SECONDS, attempt)

    def backoff(self, first_seconds: float, failures: int) -> float:
        """Return the pause after so many failures in a row, twice as long for each.

        It is random, so that clients that lost one gateway together do not return together.
        """
        longest = min(first_seconds * 2 ** min(failures, 30), self.seconds_max)
        return float(longest * random.uniform(0.5, 1))  # noqa: S311  no secret

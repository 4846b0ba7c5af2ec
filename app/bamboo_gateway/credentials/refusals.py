"""Why credentials were refused: for the operator's log, and never for an answer.

A client that guesses must not learn which part of a guess was right, so all refusals have the same
answer. The operator still has to see why a customer's token is refused. A line names the reason and
the public name of the key, or the token's issuer or key id; it never has the credential itself.
"""

from dataclasses import dataclass
from typing import Final, Literal

import structlog

from bamboo_gateway.domain.clock import Clock

log = structlog.get_logger(__name__)

WINDOW_SECONDS: Final = 60.0
"""How long a repeated refusal is only counted after it was logged."""

LINES_MAX: Final = 20
"""Different refusals that one window logs: enough to see what is wrong, and few enough that
thousands of bad credentials fill no disk. More are counted together."""

_NAME_CHARS_MAX: Final = 100
"""How much of a name is logged. Issuers' addresses are shorter; a forger's may have thousands."""

Kind = Literal["key", "token", "ticket", "cookie", "link", "header"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a credential was refused.

    Attributes:
        kind: What was sent, as far as its form says.
        reason: `expired`, `revoked`, `unknown_key`, `wrong_secret`, `wrong_audience` …
        name: The key's public id, a token's issuer, or the `kid` it names; None: nothing is known.
    """

    kind: Kind
    reason: str
    name: str | None = None


class RefusalLog:
    """Logs refusals: each kind once in a window, and then how often it was repeated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = 0.0
        self._again: dict[Refusal, int] = {}
        self._others = 0

    def note(self, refusal: Refusal) -> None:
        """Log a refusal, or count it when the window has its line already."""
        self.flush()
        if refusal in self._again:
            self._again[refusal] += 1
        elif len(self._again) < LINES_MAX:
            if not self._again:
                self._began = self._clock.monotonic()
            self._again[refusal] = 0
            _log(refusal, 1)
        else:
            self._others += 1

    def flush(self) -> None:
        """Log the counts once the window has passed."""
        if self._again and self._clock.monotonic() - self._began >= WINDOW_SECONDS:
            self.close()

    def close(self) -> None:
        """End the window and log its counts, so that none is lost when the process ends."""
        again, others = self._again, self._others
        self._again, self._others = {}, 0
        for refusal, times in again.items():
            if times:
                _log(refusal, times)
        if others:
            log.warning("other credentials refused", times=others)


def _log(refusal: Refusal, times: int) -> None:
    name = {} if refusal.name is None else {"name": refusal.name[:_NAME_CHARS_MAX]}
    log.warning("credential refused", kind=refusal.kind, reason=refusal.reason, times=times, **name)

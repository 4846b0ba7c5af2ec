"""Logs that lag behind the journal: their last lines are durable there and not yet in their files.

Nobody waits for these files: the journal is the truth until a checkpoint, reads find the lines in
memory, and recovery writes them out again. So a log that is busy is written once for many commits:
when nothing waits to be committed, when it has lagged for a moment, or when it has gathered enough
for a write of its own.
"""

from collections import OrderedDict
from collections.abc import Iterable

from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.storage.jsonl.log.log import Log
from bamboo_gateway.storage.jsonl.log.write_health import WriteHealth

# How long files may be behind what is acknowledged while commits keep coming: whoever follows one
# with `tail -f` hardly notices, and a session that streams 50 events a second is written once.
_LAG_SECONDS = 1.0
# How many are brought up between two batches: some 100 us, beside a sync of as much or more.
_LOGS_A_TURN = 8
# From here on a write costs by its bytes, so waiting for more saves nothing; and readers of the
# last events join what is in memory.
_TAIL_BYTES = 256 * 1024


class WriteBehind:
    """See the module. Used on the committer's thread alone."""

    def __init__(self, condition: WriteHealth, clock: Clock) -> None:
        self._condition = condition
        self._clock = clock
        # Since when, in that order.
        self._since: OrderedDict[Log, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._since)

    def add(self, logs: Iterable[Log]) -> None:
        """Take logs that have got lines; those with much are brought up at once."""
        since, now = self._since, self._clock.monotonic()
        for log in logs:
            if log.size - log.written >= _TAIL_BYTES:
                self._write(log)
            elif log not in since:
                since[log] = now

    def bring_up_due(self) -> None:
        """Write some of those that have lagged for long: between batches."""
        until = self._clock.monotonic() - _LAG_SECONDS
        for _ in range(_LOGS_A_TURN):
            log, since = next(iter(self._since.items()), (None, until))
            if log is None or since > until:
                return
            self._write(log)

    def bring_up_some(self) -> None:
        """Write those that have lagged longest: when there is nothing else to do."""
        for _ in range(min(_LOGS_A_TURN, len(self._since))):
            self._write(next(iter(self._since)))

    def _write(self, log: Log) -> None:
        self._since.pop(log, None)
        # What cannot be written stays in memory, and from then on the session's writes are refused.
        if log.failure is None and not log.is_uncertain:
            self._condition.write(log)

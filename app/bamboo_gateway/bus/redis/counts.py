"""Counts of rates in Redis: two numbers for each, which expire.

They have a connection of their own, so that no request waits behind a batch of notices. A request
waits for them a moment at most: then it is counted by its own gateway alone, and so are all others
until a new connection answers.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from random import uniform
from typing import Any, Final

import anyio
import structlog
from redis.exceptions import RedisError
from typing_extensions import override

from bamboo_gateway.bus.redis.connections import Argument, BusSilent, CommandLine, Target, first_of
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.rates import Counted, Rate, SharedCounts, WindowCount

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 0.25
"""How long a request waits for its counts. Redis takes less than a millisecond."""

_RETRY_SECONDS_MIN: Final = 0.1
_RETRY_SECONDS_MAX: Final = 2.0

# Redis' own clock divides the windows, so that the clocks of the gateways need not agree. A key
# has the number of its current window, and the requests in the window before and in that one.
_COUNT: Final = """\
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local exceeded, seen, answer = 0, {}, {}
for i, key in ipairs(KEYS) do
  local amount, seconds = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local window, left = math.floor(now / seconds), seconds - now % seconds
  local kept = redis.call('HMGET', key, 'window', 'previous', 'current')
  local at = tonumber(kept[1]) or 0
  local previous, current = tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
  if at == window - 1 then previous, current = current, 0
  elseif at ~= window then previous, current = 0, 0 end
  if exceeded == 0 and previous * left / seconds + current >= amount then exceeded = i end
  seen[i] = {window, previous, current, left, seconds}
end
answer[1] = exceeded
for i, key in ipairs(KEYS) do
  local window, previous, current, left, seconds = unpack(seen[i])
  if exceeded == 0 then
    current = current + 1
    redis.call('HSET', key, 'window', string.format('%.0f', window), 'previous', previous,
      'current', current)
    redis.call('PEXPIRE', key, 2000 * seconds)
  end
  answer[3 * i - 1], answer[3 * i] = previous, current
  answer[3 * i + 1] = math.floor(left * 1000000)
end
return answer"""


class RedisCounts(SharedCounts):
    """The counts of one deployment. `run` is a background task.

    Args:
        target: The Redis.
        clock: Measures outages.
        deployment: Returns what the keys begin with.
    """

    def __init__(self, target: Target, clock: Clock, deployment: Callable[[], str]) -> None:
        self._target = target
        self._clock = clock
        self._deployment = deployment
        self._line: CommandLine | None = None
        self._is_wanted = anyio.Event()
        self._is_bad = anyio.Event()
        self._has_answered = False
        self._is_told = False
        self._checks = Counter({"redis": 0, "process": 0})

    @override
    async def count(self, rates: Sequence[Rate]) -> Counted | None:
        self._is_wanted.set()
        if (line := self._line) is None:
            self._checks["process"] += 1
            return None
        command: list[Argument] = ["EVAL", _COUNT, len(rates)]
        command += [self._key(rate.name) for rate in rates]
        for rate in rates:
            command += (rate.amount, rate.seconds)
        try:
            with anyio.move_on_after(ANSWER_SECONDS):
                answer: list[int] = await line.call(*command)
                self._checks["redis"] += 1
                self._has_answered, self._is_told = True, False
                return _counted(answer)
        except RedisError as error:
            self._give_up(line, str(error))
        else:
            self._give_up(line, f"no answer within {ANSWER_SECONDS:g} s")
        self._checks["process"] += 1
        return None

    @override
    def forget(self, names: Collection[str]) -> None:
        if self._line is not None and names:
            # Who does not hear of it forgets by itself, after two windows.
            self._line.tell("DEL", *map(self._key, names))

    def stats(self) -> Mapping[str, Any]:
        """Return the metrics, as `Bus.stats`."""
        return {"rate_checks_total": {(by,): count for by, count in self._checks.items()}}

    async def run(self) -> None:
        """Keep a connection, once the first request has asked for counts."""
        await self._is_wanted.wait()
        pause = _RETRY_SECONDS_MIN
        while True:
            self._has_answered = False
            try:
                await self._serve()
            except* (RedisError, BusSilent, OSError) as errors:
                self._tell_alone(str(first_of(errors)))
            self._line = None
            pause = _RETRY_SECONDS_MIN if self._has_answered else min(2 * pause, _RETRY_SECONDS_MAX)
            await anyio.sleep(uniform(pause / 2, pause))  # noqa: S311 - no secret

    async def _serve(self) -> None:
        """Serve requests over one connection, until one of them waited in vain."""
        self._is_bad = anyio.Event()
        line = CommandLine(await self._target.connect())
        async with anyio.create_task_group() as group:
            group.start_soon(line.run, name="bus counts")
            self._line = line
            await self._is_bad.wait()
            group.cancel_scope.cancel()

    def _give_up(self, line: CommandLine, why: str) -> None:
        if self._line is line:
            self._line = None
            self._is_bad.set()
            self._tell_alone(why)

    def _tell_alone(self, why: str) -> None:
        """Log it once, until the next answer."""
        if not self._is_told:
            self._is_told = True
            log.warning("each gateway counts the rates of requests alone for now", error=why)

    def _key(self, name: str) -> bytes:
        return f"bamboo:{self._deployment()}:rate:{name}".encode("utf-8", "surrogateescape")


def _counted(answer: list[int]) -> Counted:
    windows = [
        WindowCount(previous, current, left / 1_000_000)
        for previous, current, left in zip(answer[1::3], answer[2::3], answer[3::3], strict=True)
    ]
    return Counted(answer[0] - 1 if answer[0] else None, windows)

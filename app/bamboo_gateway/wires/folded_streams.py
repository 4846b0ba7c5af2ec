"""Streams of protocols whose frames depend on what was sent before.

A `Renderer` keeps no state, so that all readers of a session share what it made. In some protocols
an event opens a text that later ones continue, so their frames are a *fold* over the events: from a
state and a piece of the log to bytes and the next state. A `FoldedStream` folds what its
subscription shows. States are values, so readers with the same state and the same piece get the
same result, and the fold is computed once for all of them (`FoldMemo`).
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar, assert_never
from weakref import WeakValueDictionary

from bamboo_gateway.sessions.streaming.rendering import (
    CaughtUp,
    Control,
    Goodbye,
    GoodbyeReason,
    Heartbeat,
    Open,
    Ping,
    Reset,
)
from bamboo_gateway.sessions.streaming.subscription import Subscription

S = TypeVar("S", bound=Hashable)

PING_LINE: Final = b":"
GOODBYE_LINE: Final = b"-"
RESET_LINE: Final = b"!"
"""The first byte of the lines that are no events; an event is a JSON object, on one line."""

_MEMO_BYTES_MAX: Final = 256 * 1024
"""What the pieces and results that are kept for other readers of a run may take. Readers are mostly
at the same place; the latest result is kept whatever its size."""


class EventLines:
    """The renderer below all folded streams: each event is a line with its JSON."""

    __slots__ = ()

    def event(self, epoch: int, seq: int, body: bytes, /) -> bytes:
        """Return the line of an event."""
        del epoch, seq
        return b"%b\n" % body

    def control(self, shown: Control, /) -> bytes:
        """Return the line of an item that is not in the log; empty for those that say nothing."""
        match shown:
            case Ping() | Heartbeat():
                return PING_LINE + b"\n"
            case Goodbye(reason):
                return GOODBYE_LINE + reason.encode("ascii") + b"\n"
            case Reset():
                return RESET_LINE + b"\n"
            case Open() | CaughtUp():
                return b""
            case _:
                assert_never(shown)


EVENT_LINES: Final = EventLines()


class Folded(NamedTuple, Generic[S]):
    """What a fold made of a piece."""

    frames: bytes
    state: S


class Fold(ABC, Generic[S]):
    """Makes a protocol's frames of lines, from a state on. It keeps nothing itself."""

    @abstractmethod
    def feed(self, state: S, lines: bytes) -> Folded[S]:
        """Return the frames of lines of `EventLines`, and the state behind them."""

    def waits(self, state: S) -> bool:
        """Return whether the state waits for something that only the session has (`Complete`)."""
        del state
        return False


Complete = Callable[[S], Awaitable[Folded[S]]]
"""Returns the frames that a state waits for, and the state that waits no more."""


class FoldMemo(Generic[S]):
    """The latest results of a fold. Pieces are shared among readers, so most are found again."""

    __slots__ = ("__weakref__", "_bytes", "_results", "fold", "readers")

    def __init__(self, fold: Fold[S]) -> None:
        self.fold = fold
        self.readers = 0
        self._results: OrderedDict[tuple[S, bytes], Folded[S]] = OrderedDict()
        self._bytes = 0

    def feed(self, state: S, lines: bytes) -> Folded[S]:
        """Return what the fold makes of a piece. With one reader nothing is kept."""
        if self.readers < 2:
            return self.fold.feed(state, lines)
        key = (state, lines)
        found = self._results.get(key)
        if found is None:
            found = self._results[key] = self.fold.feed(state, lines)
            self._bytes += len(lines) + len(found.frames)
            while self._bytes > _MEMO_BYTES_MAX and len(self._results) > 1:
                (_, dropped), result = self._results.popitem(last=False)
                self._bytes -= len(dropped) + len(result.frames)
        return found


class FoldMemos(Generic[S]):
    """The memos that are in use: one for all readers of the same thing."""

    def __init__(self) -> None:
        self._memos: WeakValueDictionary[Hashable, FoldMemo[S]] = WeakValueDictionary()

    def of(self, key: Hashable, make: Callable[[], Fold[S]]) -> FoldMemo[S]:
        """Return the memo of everybody who reads what `key` names."""
        memo = self._memos.get(key)
        if memo is None:
            memo = self._memos[key] = FoldMemo(make())
        return memo


class FoldedStream(Generic[S]):
    """One open stream (`api.sse.OpenStream`): a subscription whose lines are folded.

    Args:
        inner: The subscription; its renderer is `EVENT_LINES`.
        memo: The fold, with what other readers made of it.
        state: Where it begins.
        complete: Gives states what they wait for, if the fold has such states.
        opening: What it begins with.
    """

    __slots__ = (
        "_complete",
        "_has_ended",
        "_inner",
        "_is_open",
        "_memo",
        "_opening",
        "_send",
        "_state",
        "id",
    )

    def __init__(
        self,
        inner: Subscription,
        memo: FoldMemo[S],
        state: S,
        complete: Complete[S] | None = None,
        opening: bytes = b"",
    ) -> None:
        self.id = inner.id
        self._inner = inner
        self._memo = memo
        self._memo.readers += 1
        self._is_open = True
        self._state = state
        self._complete = complete
        self._opening = opening
        self._send: Callable[[bytes], bool] | None = None
        self._has_ended = False

    @property
    def session_id(self) -> str:
        """The session that it shows."""
        return self._inner.session_id

    @property
    def sending_since(self) -> float | None:
        """As of the subscription."""
        return self._inner.sending_since

    @sending_since.setter
    def sending_since(self, value: float | None) -> None:
        self._inner.sending_since = value

    @property
    def cancel_slow(self) -> Callable[[], None] | None:
        """As of the subscription."""
        return self._inner.cancel_slow

    @cancel_slow.setter
    def cancel_slow(self, value: Callable[[], None] | None) -> None:
        self._inner.cancel_slow = value

    @property
    def send_now(self) -> Callable[[bytes], bool] | None:
        """As of the subscription, which then sends lines: they are folded on the way."""
        return self._send

    @send_now.setter
    def send_now(self, value: Callable[[bytes], bool] | None) -> None:
        self._send = value
        self._inner.send_now = self._fold_and_send if value is not None else None

    async def next(self) -> bytes | None:
        """Wait for the next frames, and return them; None at the end."""
        if opening := self._opening:
            self._opening = b""
            return opening
        while not self._has_ended:
            lines = await self._inner.next()
            if lines is None:
                self._has_ended = True
                return None
            frames, state = self._memo.feed(self._state, lines)
            if self._complete is not None and self._memo.fold.waits(state):
                more, state = await self._complete(state)
                frames += more
            self._state = state
            if frames:
                return frames
        return None

    def end(self, reason: GoodbyeReason) -> None:
        """End it, with what the protocol has for `goodbye`."""
        self._inner.end(reason)

    def aclose(self) -> None:
        """Unregister the subscription. Idempotent."""
        if self._is_open:
            self._is_open = False
            self._memo.readers -= 1
        self._inner.aclose()

    def _fold_and_send(self, lines: bytes) -> bool:
        frames, state = self._memo.feed(self._state, lines)
        if self._memo.fold.waits(state):
            return False  # the reader's task can wait for it
        if self._send is None or (frames and not self._send(frames)):
            return False
        self._state = state
        return True

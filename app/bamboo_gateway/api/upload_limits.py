"""How many uploads may go on at a time, in all and per caller: each has a file that grows."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from bamboo_gateway.api.body_memory import reservation_of
from bamboo_gateway.domain.errors import LimitReached, Unavailable
from bamboo_gateway.settings import Settings


class UploadCount:
    """The uploads that are going on, by caller. Use it on the event loop only."""

    def __init__(self) -> None:
        self.by_caller = Counter[str]()


@contextmanager
def upload_place(request: Request) -> Iterator[None]:
    """Hold one of the places for uploads.

    Raises:
        LimitReached: The caller has `max_uploads_per_caller` already.
        Unavailable: All callers together have `max_uploads`.
    """
    settings: Settings = request.app.state.settings
    count: UploadCount = request.app.state.uploads
    caller = reservation_of(request.scope).caller
    if count.by_caller[caller] >= settings.max_uploads_per_caller:
        raise LimitReached(
            f"Limit reached: {settings.max_uploads_per_caller} uploads at a time per caller "
            "(max_uploads_per_caller). Wait for one to end.",
            code="too-many-uploads",
            retry_after_seconds=1,
        )
    if count.by_caller.total() >= settings.max_uploads:
        raise Unavailable(
            f"Limit reached: {settings.max_uploads} uploads at a time (max_uploads). Retry later.",
            code="too-many-uploads-in-all",
            retry_after_seconds=5,
        )
    count.by_caller[caller] += 1
    try:
        yield
    finally:
        count.by_caller[caller] -= 1
        if not count.by_caller[caller]:
            del count.by_caller[caller]

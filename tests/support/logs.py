"""What the gateway says to its log, caught while its other threads go on talking."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict, Processor


@contextmanager
def captured_logs(*processors: Processor) -> Iterator[list[EventDict]]:
    """Return all that is logged meanwhile, by whichever thread, and nothing else does.

    structlog's own `capture_logs` empties and fills the list of processors that a line of another
    thread is just on its way through, which then fails. Here a line has the old list or the new.

    Args:
        processors: Applied before a line is caught.
    """
    before = structlog.get_config()["processors"]
    capture = LogCapture()
    structlog.configure(processors=[*processors, capture])
    try:
        yield capture.entries
    finally:
        structlog.configure(processors=before)

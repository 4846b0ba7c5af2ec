"""The log, on stderr: structlog formats the lines of the gateway and of its libraries.

A thread of its own writes the lines: a pipe that nobody reads must not block the event loop (R12).
Lines that do not fit into its queue are counted and dropped. No text from outside can end a line or
command a terminal (R13): both formats escape it. The edge and each run's task bind `request_id`,
`session_id` and `run_id` as context. The content of requests and runs is never logged.
"""

import atexit
import logging
import sys
import traceback
from collections.abc import MutableMapping, Sequence
from logging.handlers import QueueHandler, QueueListener
from queue import Full, Queue
from typing import Any, Final, Self, TextIO

import structlog
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.typing import EventDict, ExcInfo, Processor
from typing_extensions import override

_WAITING_LINES_MAX: Final = 10_000
"""Some MiB: about one second of a busy gateway. A reader that pauses longer is stuck."""

_SHARED: Final[list[Processor]] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def configure_logs(log_format: str, log_level: str) -> None:
    """Configure the logging of the process: format `console` or `json`, level `debug` to `error`.

    Stdout stays free for the output of commands.
    """
    writer = logging.StreamHandler(sys.stderr)
    writer.setFormatter(make_formatter(log_format, colors=sys.stderr.isatty()))
    handler = HandOver(Queue(_WAITING_LINES_MAX))
    listener = QueueListener(handler.queue, writer)
    listener.start()
    atexit.register(listener.stop)
    send_logs_to(handler, log_level)


def send_logs_to(handler: logging.Handler, log_level: str) -> None:
    """Send all records of this level and above to one handler, from structlog and `logging`."""
    level = logging.getLevelNamesMapping()[log_level.upper()]
    structlog.configure(
        processors=[
            merge_contextvars,
            *_SHARED,
            _keep_exception,
            _as_line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_ToHandler(handler),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    # Their lines for each request are noise here; problems are warnings.
    for name in ("uvicorn", "uvicorn.error", "httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def log_as_a_library() -> None:
    """Send the gateway's log lines to `logging`, unless the process has configured structlog.

    For programs that embed the gateway: without this structlog prints every line to their stdout.
    The program's own configuration of `logging` decides what happens to the records.
    """
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def make_formatter(log_format: str, *, colors: bool = False) -> logging.Formatter:
    """Return the formatter for `json` or `console`."""
    render: list[Processor]
    if log_format == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        # Plain: the pretty traceback shows the locals of every frame, and with them keys and
        # conversations.
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback)
        render = [_escape, console]
    return _Formatter(
        render,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        foreign_pre_chain=[_add_context, *_SHARED, structlog.stdlib.ExtraAdder({_CONTEXT})],
    )


class _Line(logging.LogRecord):
    """A line of the gateway: a record with its event alone.

    `logging` looks up for each record where in the code it was made, and by which thread. No format
    shows that, and it takes longer than the line itself.
    """

    def __init__(self, event: MutableMapping[str, Any]) -> None:
        self.msg, self.args = event, None


class _ToHandler:
    """Makes structlog's loggers, which pass each line to a handler and not through `logging`.

    The wrapper class has compared the level before.
    """

    def __init__(self, handler: logging.Handler) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = handler.handle

    def __call__(self, *_: Any) -> Self:
        return self


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Renders lines of the gateway at once, and records of libraries as the base class does."""

    def __init__(self, render: Sequence[Processor], **options: Any) -> None:
        super().__init__(**options)
        self._render = render

    @override
    def format(self, record: logging.LogRecord) -> str:
        if not isinstance(record, _Line):
            return super().format(record)
        line: Any = record.msg
        for processor in self._render:
            line = processor(None, "", line)
        return str(line)


class HandOver(QueueHandler):
    """Passes records to the thread that writes them.

    Attributes:
        lost: How many lines this process dropped because the queue was full.
    """

    lost = 0

    @override
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        if not isinstance(record.msg, dict):
            # A record of a library: its message and its context are known only now.
            record.msg, record.args = record.getMessage(), None
            setattr(record, _CONTEXT, get_contextvars())
        return record

    @override
    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except Full:
            HandOver.lost += 1


_CONTEXT: Final = "bamboo_context"
"""The attribute of a library's record that holds its context."""

_PLAIN: Final = frozenset({int, float, bool, type(None)})
_EXCEPTION_KEYS: Final = frozenset({"exc_info", "stack_info"})


def _keep_exception(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Attach the exception that is being handled: the writing thread cannot see it."""
    if event.get("exc_info") is True:
        event["exc_info"] = sys.exc_info()
    return event


def _as_line(_: Any, __: str, event: MutableMapping[str, Any]) -> tuple[tuple[_Line], EventDict]:
    return (_Line(event),), {}


def _add_context(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.update(getattr(event["_record"], _CONTEXT, {}))
    return event


def _escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape characters that could end the line or command a terminal."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _escaped(value)
        elif type(value) not in _PLAIN and name not in _EXCEPTION_KEYS:
            event[name] = _escaped(repr(value))
    return event


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def _write_traceback(target: TextIO, exc_info: ExcInfo) -> None:
    """Write a traceback so that none of its lines looks like a line of the log."""
    lines = "".join(traceback.format_exception(*exc_info)).rstrip().split("\n")
    target.writelines(f"\n  | {_escaped(line)}" for line in lines)

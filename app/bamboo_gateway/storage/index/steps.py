"""Reads that execute nothing themselves: they yield requests, and are sent their rows.

So stores with threads and stores with an asynchronous driver have the same lists and searches:

    steps = list_sessions(query, presence, "sqlite")
    rows = None
    while True:
        request = steps.send(rows)      # StopIteration has the result
        rows = execute(request.text, request.values)

All requests of one read go to one connection, those of a search in one transaction: on PostgreSQL
some of them tell the planner what the next one needs.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Rows = Sequence[Sequence[Any]]
T = TypeVar("T")


class Request(NamedTuple):
    """A statement to execute, with the values of its parameters."""

    text: str
    values: Mapping[str, Any]


def run_steps(steps: Generator[Request, Rows, T], execute: Callable[[Request], Rows]) -> T:
    """Run a read with a driver that answers at once."""
    rows: Rows | None = None
    while True:
        try:
            request = steps.send(rows)  # type: ignore[arg-type] # the first one is None
        except StopIteration as end:
            found: T = end.value
            return found
        rows = execute(request)

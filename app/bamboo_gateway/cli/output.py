"""The output of commands. All text from the network passes through here and is made harmless.

A terminal obeys control sequences wherever they come from. An agent's answer could rename the
window, hide text, or make the terminal type into the shell. So control characters are printed as
escapes, and Rich's markup is switched off.
"""

import re
from collections.abc import Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from bamboo_gateway.domain import codec

# C0 without tab and newline, DEL, C1 (0x9b alone begins a sequence), and the marks that change the
# direction of text, which make a line look different from what it is.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# JSON escapes C0 itself. In valid JSON these occur only inside strings.
_UNSAFE_IN_JSON = re.compile(r"[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


# A sentence with the five longest ids in it.
_ERROR_CHARS_MAX = 1000
# More than any line has: a tree of 1,000 generations, each with an id of 128 characters.
_UNBOUNDED_COLUMNS = 100_000
# The last column of a table is text for people; fewer characters would tell nothing.
_TEXT_CHARS_MIN = 10
_TEXT_CHARS_MAX = 60
_GAP = "  "


class ExitCode(IntEnum):
    """The exit codes of commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends the command with one line on stderr and an exit code.

    Attributes:
        line: The error message.
        exit_code: The exit code of the process.
    """

    def __init__(self, line: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(line)
        self.line = line
        self.exit_code = exit_code


@cache
def stdout() -> Console:
    """Return the console for results."""
    return Console(highlight=False, markup=False, emoji=False)


@cache
def unwrapped() -> Console:
    """Return a console on stdout without a width: Rich would cut ids to fit a drawing into it."""
    # Without a height Rich takes a dumb terminal's width to be 80, whatever it is told.
    return Console(width=_UNBOUNDED_COLUMNS, height=25, highlight=False, markup=False, emoji=False)


@cache
def stderr() -> Console:
    """Return the console for notices and errors, so that a pipe gets only results."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def harmless(text: str) -> str:
    """Return `text` with control characters as escapes; newline and tab stay."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def one_line(text: str, width: int = 200) -> str:
    """Return `text` on one line, cut to `width` characters, with control characters escaped."""
    line = " ".join(harmless(text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def styled(text: str, style: str = "") -> Text:
    """Return text from the network for a console: control characters escaped, no markup."""
    return Text(harmless(text), style=style)


def write(text: str, style: str = "") -> None:
    """Print a piece of a longer text to stdout, without a newline and without wrapping."""
    stdout().print(styled(text, style), end="", soft_wrap=True)


def print_line(text: str, style: str = "") -> None:
    """Print one line to stdout without wrapping."""
    stdout().print(styled(text, style), soft_wrap=True)


def print_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, last_is_whole: bool = False
) -> None:
    """Print rows below bold headers. Only the last column is cut: the others hold ids to copy.

    Unless `last_is_whole`: then that one holds values to copy, too.

    The last column gets the width that the terminal has left. A terminal that is too narrow for the
    other columns wraps the lines itself.
    """
    *columns, last = zip(headers, *rows, strict=True)
    safe = [[harmless(" ".join(cell.split())) for cell in column] for column in columns]
    widths = [max(map(cell_len, column)) for column in safe]
    left = stdout().width - sum(widths) - len(_GAP) * len(widths)
    room = min(max(left, _TEXT_CHARS_MIN), _TEXT_CHARS_MAX)
    if not stdout().is_terminal:
        room = _TEXT_CHARS_MAX
    texts = [one_line(text, len(text) + 1 if last_is_whole else room) for text in last]
    for number, text in enumerate(texts):
        cells = [
            set_cell_size(column[number], width) for column, width in zip(safe, widths, strict=True)
        ]
        print_line(_GAP.join([*cells, text]).rstrip(), "" if number else "bold")


def print_json(value: bytes | str | Mapping[str, Any]) -> None:
    """Print a JSON value as one line to stdout; JSON text is printed as it was received."""
    if isinstance(value, Mapping):
        value = codec.encode(value)
    text = value.decode() if isinstance(value, bytes) else value
    stdout().out(_UNSAFE_IN_JSON.sub(_escaped, text), highlight=False)


def notice(text: str) -> None:
    """Print a notice for people on stderr."""
    stderr().print(styled(text, "dim"), soft_wrap=True)


def complain(failure: CommandError) -> None:
    """Print on stderr why the command ends."""
    stderr().print(
        Text("error: ", "bold red") + styled(one_line(failure.line, _ERROR_CHARS_MAX)),
        soft_wrap=True,
    )


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\u{code:04x}"

r"""Foreign text inside our Markdown: readable, and unable to affect the rest of the document.

A text is cut into lines, and `> ` is put before each. The end of a block quote closes everything
that was opened in it: lists, quotes, emphasis. Escapes disable what could reach beyond the quote or
change the meaning of the document:

* headings and setext underlines (`\#`, `\---`), also behind list markers and quote signs;
* HTML, comments, autolinks, numeric references (`\<`, `\&#`);
* link and footnote definitions, which apply to the whole document (`]\:`);
* images, which are fetched when the document is shown (`\![`), and GitHub's alerts (`[\!`);
* tables: their lines become code;
* control characters, other line ends, bidirectional overrides and invisible tags, which are made
  visible.

Code is difficult, because a backslash inside it is shown. So code is found here first, by rules
simpler than CommonMark's, and written so that CommonMark must find exactly the same code. Fenced
blocks get new fences, longer than any run of backticks inside. Code spans are those that open and
close on one line, and every other backtick is escaped. Where these rules differ from CommonMark's,
a text looks a little different; it never leaves its quote.
"""

import re
from collections.abc import Iterator

_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_TABLE_LINE = re.compile(r"[ \t]*\|.*\|[ \t]*")
_INFO = re.compile(r"[A-Za-z0-9_+#.-]{1,40}")
_MEANT = re.compile(r"[`\\\]<&!\[~]")
_HEADING = re.compile(r"(?P<lead>(?:[\s>]|[-+*](?=\s)|\d{1,9}[.)](?=\s))*)#")
_UNDERLINING = tuple("=-|:")
_TICKS = re.compile(r"\\.|`+")
# An escaped character is matched first: `\<` must not become `\\<`, in which `<` is active.
_MEANING = re.compile(r"\\.|\]:|<|&#|!\[|\[!|~~~+")
_INLINE = re.compile(r"[\\`*_\[\]<>&#|~$^!]|(?<=www)\.|:(?=//)")


def visible(text: str) -> str:
    """Make invisible characters visible, and every line end a newline."""
    return _HIDDEN.sub(_shown, _LINE_ENDS.sub("\n", text))


def inline(text: str) -> str:
    """Return one line of plain text for a heading, a table cell or a label, with all escaped."""
    return _INLINE.sub(r"\\\g<0>", " ".join(visible(text).split()))


def fenced(text: str, info: str = "") -> list[str]:
    """Return the lines of a code block that shows `text` literally."""
    text = visible(text)
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + info, *text.removesuffix("\n").split("\n"), fence]


def quoted(text: str) -> list[str]:
    """Return the lines of a block quote that holds `text` and keeps its harmless Markdown."""
    return [f"> {line}" if line else ">" for line in _contained(visible(text).split("\n"))]


def _contained(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        if fence := _FENCE.fullmatch(lines[at]):
            end = _fence_end(lines, at + 1, fence["fence"])
            dedented = (_dedent(line, len(fence["indent"])) for line in lines[at + 1 : end])
            info = _INFO.match(fence["info"].strip())
            yield from fenced("\n".join(dedented), info[0] if info else "")
            at = end + 1
        elif end := _table_end(lines, at):
            # As code its columns stay aligned.
            yield from fenced("\n".join(lines[at:end]))
            at = end
        else:
            yield _harmless(lines[at])
            at += 1


def _fence_end(lines: list[str], start: int, fence: str) -> int:
    for at in range(start, len(lines)):
        line = lines[at].strip()
        if len(line) >= len(fence) and not line.strip(fence[0]):
            return at
    return len(lines)


def _table_end(lines: list[str], start: int) -> int:
    """Return where the table lines that begin at `start` end; 0 if there are fewer than two."""
    end = start
    while end < len(lines) and _TABLE_LINE.fullmatch(lines[end]):
        end += 1
    return end if end - start > 1 else 0


def _dedent(line: str, width: int) -> str:
    blank = len(line) - len(line.lstrip(" \t"))
    return line[min(blank, width) :]


def _harmless(line: str) -> str:
    if _MEANT.search(line):
        line = "".join(_spans(line))
    bare = line.lstrip(" \t>")
    # The underline of a heading, or the row of dashes that every table needs.
    if bare[:1] in _UNDERLINING and (not bare.strip("= \t") or not bare.strip("-|: \t")):
        at = len(line) - len(bare)
        return f"{line[:at]}\\{bare}" if bare else line
    if heading := _HEADING.match(line):
        at = heading.end("lead")
        return f"{line[:at]}\\{line[at:]}"
    return line


def _spans(line: str) -> Iterator[str]:
    """Return the line in pieces: code spans unchanged, the rest escaped."""
    last = {len(run[0]): run.start() for run in re.finditer(r"`+", line)}
    at = start = 0
    while ticks := _TICKS.search(line, at):
        at = ticks.end()
        if ticks[0][0] == "\\":
            continue
        end = _span_end(line, ticks, last)
        yield _meaningless(line[start : ticks.start()])
        if end and "]:" not in line[at:end]:
            yield line[ticks.start() : end]
            at = end
        else:
            # Also if it holds the end of a link definition, which CommonMark finds before code.
            yield r"\`" * len(ticks[0])
        start = at
    yield _meaningless(line[start:])


def _span_end(line: str, opening: re.Match[str], last: dict[int, int]) -> int:
    """Return where the span that `opening` begins ends; 0 if nothing on the line closes it."""
    length = len(opening[0])
    if last.get(length, -1) <= opening.start():
        return 0
    runs = re.compile(r"`+").finditer(line, opening.end())
    return next(run.end() for run in runs if len(run[0]) == length)


def _meaningless(text: str) -> str:
    return _MEANING.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    match match[0]:
        case "]:":
            return r"]\:"
        case "[!":
            return r"[\!"
        case found if found[0] == "~":
            return r"\~" * len(found)
        case found if found[0] == "\\":
            return found
        case found:
            return "\\" + found


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\u2039U+{code:04X}\u203a"

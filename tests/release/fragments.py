"""Turn the changelog's unreleased part into news fragments, once, after branches were merged.

python -m tests.release.fragments             moves each item into a file of `changelog.d/`
python -m tests.release.fragments --dry-run   only lists these files
"""

import re
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.processes import REPOSITORY

CHANGELOG: Final = REPOSITORY / "CHANGELOG.md"
FRAGMENTS: Final = REPOSITORY / "changelog.d"
MARK: Final = "<!-- releases -->\n"

_SECTION: Final = re.compile(r"^## Unreleased\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_KINDS: Final = frozenset({"changed", "added", "fixed", "removed", "security"})
_NAME_CHARS_MAX: Final = 40


class Fragment(NamedTuple):
    """One item of the changelog, and the name of its file."""

    name: str
    text: str


def fragments(changelog: str) -> list[Fragment]:
    """Return the items below `## Unreleased`, in their order.

    Raises:
        ValueError: A line belongs to no item, or a heading is of no known kind.
    """
    section = _SECTION.search(changelog)
    return list(_fragments(section[1])) if section else []


def without_items(changelog: str) -> str:
    """Return the changelog without its unreleased part."""
    return _SECTION.sub("", changelog).replace(
        "What is new since the last release stands below and in `changelog.d/`.",
        "What is new since the last release stands in `changelog.d/`.",
    ).rstrip("\n") + "\n"  # fmt: skip


def _fragments(section: str) -> Iterator[Fragment]:
    kind: str | None = None
    number = 0
    item: list[str] = []
    for line in [*section.splitlines(), "- "]:
        begins = line.startswith(("- ", "### "))
        if begins and item:
            number += 1
            yield Fragment(f"+{number:04}-{_words(item)}.{kind}.md", "\n".join(item).strip() + "\n")
            item = []
        if line.startswith("### "):
            kind = line.removeprefix("### ").strip().lower()
            if kind not in _KINDS:
                raise ValueError(f"{line}: the kinds are {', '.join(sorted(_KINDS))}")
        elif line.startswith("- ") and line != "- ":
            item = [line.removeprefix("- ")]
        elif item:
            item.append(line.removeprefix("  "))
        elif line.strip() and line != "- ":
            raise ValueError(f"this line belongs to no item: {line}")


def _words(item: list[str]) -> str:
    words = re.findall(r"[a-z0-9]+", item[0].lower())
    name = ""
    for word in words:
        if len(name) + len(word) >= _NAME_CHARS_MAX:
            break
        name += f"-{word}" if name else word
    return name


def main(arguments: list[str]) -> None:
    """Move the items, or list where they would go."""
    changelog = CHANGELOG.read_text("utf-8")
    found = fragments(changelog)
    for fragment in found:
        print(fragment.name)
        if arguments != ["--dry-run"]:
            (FRAGMENTS / fragment.name).write_text(fragment.text, "utf-8")
    if found and arguments != ["--dry-run"]:
        CHANGELOG.write_text(without_items(changelog), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

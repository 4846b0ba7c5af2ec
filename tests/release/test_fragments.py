"""The changelog's unreleased part becomes fragments without a word lost."""

import re

import pytest

from tests.release.fragments import CHANGELOG, MARK, fragments, without_items

TEXT = f"""# Changelog

What is new since the last release stands below and in `changelog.d/`.

{MARK}
## Unreleased

### Changed

- **One.** It has
  two lines.
- Two

### Added

- Three:
  - a part

## 0.1.0 (2026-01-01)

- Old
"""


def test_each_item_is_one_file_and_history_stays() -> None:
    found = fragments(TEXT)
    assert [(one.name, one.text) for one in found] == [
        ("+0001-one-it-has.changed.md", "**One.** It has\ntwo lines.\n"),
        ("+0002-two.changed.md", "Two\n"),
        ("+0003-three.added.md", "Three:\n- a part\n"),
    ]
    rest = without_items(TEXT)
    assert MARK in rest
    assert "## 0.1.0 (2026-01-01)\n\n- Old\n" in rest
    assert "One" not in rest


def test_a_line_that_belongs_nowhere_is_no_fragment() -> None:
    with pytest.raises(ValueError, match="belongs to no item"):
        fragments("## Unreleased\n\nwords\n")
    with pytest.raises(ValueError, match="the kinds are"):
        fragments("## Unreleased\n\n### Sundry\n\n- x\n")


def test_the_changelog_of_today_can_be_converted() -> None:
    text = CHANGELOG.read_text("utf-8")
    found = fragments(text)
    words = sum(len(one.text.split()) for one in found)
    section = text.partition("## Unreleased\n")[2].partition("\n## ")[0]
    dashes = len(re.findall(r"^- ", section, re.MULTILINE))
    headings = sum(len(line.split()) for line in section.splitlines() if line.startswith("###"))
    assert len(found) == dashes
    assert words == len(section.split()) - dashes - headings
    assert len({one.name for one in found}) == len(found)

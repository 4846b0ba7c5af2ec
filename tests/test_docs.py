"""The documentation says what there is, and all of it."""

import re
from itertools import chain
from pathlib import Path

import pytest

from tests.docs_tables import (
    DOCS,
    LLMS,
    README,
    TABLES,
    llms_text,
    pages,
    refresh_tables,
    table_names,
)
from tests.processes import REPOSITORY

ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")
REFRESH = "make readme"


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def test_every_table_stands_on_one_page() -> None:
    named = [table for page in pages() for table in table_names(page.read_text("utf-8"))]
    assert sorted(table for table in named if " " not in table) == sorted(TABLES)


@pytest.mark.parametrize("page", pages(), ids=name)
def test_the_tables_and_files_of_a_page_are_those_of_the_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert refresh_tables(text) == text, f"{name(page)} is stale; run {REFRESH}"


def test_the_readme_leads_with_the_two_commands() -> None:
    first_block = README.read_text("utf-8").split("```")[1]
    assert [line.split("#")[0].strip() for line in first_block.strip().splitlines()] == [
        "make serve",
        "make test",
    ]


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links of docs/ stay inside it: they have to work on the site too."""
    root = DOCS if page.is_relative_to(DOCS) else REPOSITORY
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text("utf-8"))
    found = [(page.parent / target).resolve() for target in targets]
    assert [path for path in found if not (path.exists() and path.is_relative_to(root))] == []


def test_llms_txt_names_every_page_and_leads_somewhere() -> None:
    text = LLMS.read_text("utf-8")
    assert text == llms_text(), f"llms.txt is stale; run {REFRESH}"
    targets = re.findall(r"^- \[[^\]]+\]\(([^)]+)\): \S", text, re.MULTILINE)
    assert len(targets) == len(re.findall(r"^- ", text, re.MULTILINE))
    assert [target for target in targets if not (REPOSITORY / target).is_file()] == []
    missing = {name(page) for page in DOCS.rglob("*.md")} - set(targets)
    assert missing == {"docs/index.md"}


def test_every_page_of_the_docs_is_in_the_navigation_once() -> None:
    listed = re.findall(r'"([\w/-]+\.md)"', (REPOSITORY / "zensical.toml").read_text("utf-8"))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_every_rule_and_every_threat_names_tests_that_exist() -> None:
    for title in ("The rules, and the tests that try to break them", "Threat model"):
        section = ARCHITECTURE.split(f"\n## {title}\n")[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
        named = [re.findall(r"`(tests/[^`]+)`", row) for row in rows]
        assert all(named), [row for row, tests in zip(rows, named, strict=True) if not tests]
        for test in chain.from_iterable(named):
            path, _, function = test.partition("::")
            assert (REPOSITORY / path).exists(), test
            assert f"def {function}" in (REPOSITORY / path).read_text("utf-8") if function else True


def test_every_attack_answers_a_threat() -> None:
    files = (REPOSITORY / "tests" / "attacks").glob("test_*.py")
    assert [file.name for file in files if f"tests/attacks/{file.name}" not in ARCHITECTURE] == []


def test_pages_of_docs_that_code_names_are_there() -> None:
    folders = ("app", "tests", "examples", "benchmarks")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*.py")]
    named = {
        (str(file.relative_to(REPOSITORY)), page)
        for file in files
        for page in re.findall(r"\bdocs/[\w/-]+\.md", file.read_text("utf-8"))
    }
    assert len(named) > 10
    assert [one for one in named if not (REPOSITORY / one[1]).is_file()] == []

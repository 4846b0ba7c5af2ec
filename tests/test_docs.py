"""The README says what there is, and all of it."""

import re
from itertools import chain

from bamboo_gateway.domain.events import EVENT_TYPES
from tests.processes import REPOSITORY
from tests.readme_tables import TABLES, refresh_tables, table_names

PAGE = (REPOSITORY / "README.md").read_text("utf-8")
ARCHITECTURE = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")
REFRESH = "make readme"


def test_every_setting_command_route_error_code_and_metric_is_in_the_readme_and_no_other() -> None:
    assert sorted(table_names(PAGE)) == sorted(TABLES)
    assert refresh_tables(PAGE) == PAGE, f"the tables are not those of the code; run {REFRESH}"


def test_every_type_of_event_is_in_the_readme_and_no_other() -> None:
    section = PAGE.split("\n## Events\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ((?:`\w+` ?)+)\|", section, re.MULTILINE)
    named = {name for row in rows[1:] for name in re.findall(r"`(\w+)`", row)}
    assert named == EVENT_TYPES


def test_the_readme_leads_with_the_two_commands() -> None:
    first_block = PAGE.split("```")[1]
    assert [line.split("#")[0].strip() for line in first_block.strip().splitlines()] == [
        "make serve",
        "make test",
    ]


def test_links_inside_the_repository_lead_somewhere() -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGE)
    assert targets
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


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

"""ARCHITECTURE.md: the walk of POST /chat and the tables of modules name what there is."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import bamboo_gateway
from tests.processes import REPOSITORY

(PACKAGE,) = (Path(folder) for folder in bamboo_gateway.__path__)
TEXT = (REPOSITORY / "ARCHITECTURE.md").read_text("utf-8")


def section(title: str, end: str) -> str:
    """Return the text between a title and what follows it."""
    return TEXT[TEXT.index(title) : TEXT.index(end, TEXT.index(title))]


@cache
def methods() -> dict[str, set[str]]:
    """Return the methods of each class of the package, those of its bases in it included."""
    own: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found = own.setdefault(node.name, set())
                found |= {
                    one.name
                    for one in node.body
                    if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
                }
                bases[node.name] = [ast.unparse(base) for base in node.bases]
    return {
        name: found.union(*(own.get(base, set()) for base in bases[name]))
        for name, found in own.items()
    }


WALK = re.findall(r"`(_?[A-Z][A-Za-z]+)\.([a-z_]+)`", section("## From POST /chat", "**Memory.**"))


def test_the_walk_names_many_methods() -> None:
    assert len(WALK) >= 25


@pytest.mark.parametrize(("owner", "method"), WALK)
def test_each_method_of_the_walk_exists(owner: str, method: str) -> None:
    assert method in methods()[owner]


def test_the_walk_names_each_method_once() -> None:
    assert len(set(WALK)) == len(WALK)


def test_each_module_of_sessions_is_in_its_table() -> None:
    table = section("Inside `sessions/`:", "**A command** has the same steps")
    named = set(re.findall(r"`([a-z_]+)/?`", table))
    folder = PACKAGE / "sessions"
    modules = {file.stem for file in folder.rglob("*.py")} - {"__init__"}
    # What the manager's parts share, and the plain data that goes in and out, do nothing.
    assert modules - named == {"manager_parts", "commands"}

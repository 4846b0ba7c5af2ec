"""Formats live at the edges: nothing in the core builds a frame, a stored line or a URL."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import bamboo_gateway

ROOT = Path(bamboo_gateway.__file__).parent

TEXTS = {
    r"^(data|id|event|retry): ": "an SSE frame",
    r"text/event-stream": "an SSE frame",
    r'"crc"': "a stored line",
    r"/api/|/v1/": "a URL",
}
NAMES = {
    "crc32": "a checksum",
    "to_line": "a stored line",
    "stored_lines": "a stored line",
    "stream_url": "a URL",
}


def built(source: str) -> Iterator[tuple[int, str]]:
    """Find what a module builds that belongs to an edge: (line, what). Docstrings may name it."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(text, str):
                found = {
                    what for part, what in TEXTS.items() if re.search(part, text, re.MULTILINE)
                }
                found |= {what for name, what in NAMES.items() if text == name}
                yield from ((node.lineno, what) for what in found)
        name = node.name if isinstance(node, ast.alias) else None
        name = node.id if isinstance(node, ast.Name) else name
        name = node.attr if isinstance(node, ast.Attribute) else name
        if name in NAMES:
            yield getattr(node, "lineno", 0), NAMES[name]


@pytest.mark.parametrize(("package", "modules"), [("sessions", 35), ("domain", 15)])
def test_the_core_builds_no_frames_lines_or_urls(package: str, modules: int) -> None:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert len(paths) >= modules, "the guard looks where the modules are"
    problems = [
        f"{path.relative_to(ROOT)}:{line}: builds {what}"
        for path in paths
        for line, what in built(path.read_text())
    ]
    assert not problems


def test_agents_build_no_urls_of_the_api() -> None:
    """The API passes in what makes them, so that their form stands in one place."""
    paths = sorted((ROOT / "agents").rglob("*.py"))
    assert len(paths) >= 10, "the guard looks where the modules are"
    found = {(path.name, what) for path in paths for _, what in built(path.read_text())}
    assert not {name for name, what in found if what == "a URL"}


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('frame = b"id: %d-%d\\ndata: %b\\n\\n" % (1, 2, b"")', "an SSE frame"),
        ('url = f"/api/v1/stream/{name}?after={position}"', "a URL"),
        ('answer = {"stream_url": url}', "a URL"),
        ("from zlib import crc32", "a checksum"),
        ("line = codec.to_line(body)", "a stored line"),
        ('line = b\'{"crc":"%08x",%b\' % (0, b"")', "a stored line"),
    ],
)
def test_the_guard_sees_what_it_guards_against(source: str, what: str) -> None:
    assert {found for _, found in built(source)} == {what}
    assert not list(built(f'"""{source.replace(chr(34), "")}"""'))

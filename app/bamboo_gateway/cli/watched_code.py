"""The files of `python:` agents: their modules, and what these import of the same project.

Nothing is imported: the imports are read from the source.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

_KIND = "python:"


def code_of(agent_urls: Iterable[str]) -> Iterator[Path]:
    """Yield the files of the agents' modules, and those that they import of the same project.

    Of a package all files below it are of it. Installed packages are not of the project.
    """
    files: set[Path] = set()
    seen: set[str] = set()
    names = {_module_of(url) for url in agent_urls if url.lower().startswith(_KIND)}
    while names:
        name = names.pop()
        seen.add(name)
        for file in _files_of(name):
            if file not in files:
                files.add(file)
                yield file
                names |= set(_imported(file)) - seen


def _module_of(url: str) -> str:
    return url[len(_KIND) :].partition("?")[0].partition(":")[0].partition(".")[0]


def _files_of(name: str) -> Iterator[Path]:
    """Yield the files of a top-level module of the project."""
    # Where the agents' modules are looked for: the working directory, then the path.
    path = [str(Path.cwd()), *(entry for entry in sys.path if entry)]
    try:
        spec = PathFinder.find_spec(name, path)
    except (ImportError, ValueError, AttributeError):
        return
    if spec is None:
        return
    for directory in spec.submodule_search_locations or ():
        if _is_project(Path(directory)):
            files = sorted(Path(directory).absolute().rglob("*.py"))
            yield from (file for file in files if _is_project(file))
    if spec.origin is not None and not spec.submodule_search_locations:
        file = Path(spec.origin).absolute()
        if file.suffix == ".py" and _is_project(file):
            yield file


def _is_project(path: Path) -> bool:
    """Return whether a file is the user's, and not installed or Python's own."""
    parts = path.absolute().parts
    own = {Path(sys.base_prefix), Path(sys.prefix)}
    return not (
        {"site-packages", "dist-packages"} & set(parts)
        or any(path.absolute().is_relative_to(prefix / "lib") for prefix in own)
        or Path(__file__).parents[1] in path.absolute().parents
    )


def _imported(file: Path) -> Iterator[str]:
    """Yield the top-level names that a file imports; none of one that cannot be read now."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (one.name.partition(".")[0] for one in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]
            case _:
                pass

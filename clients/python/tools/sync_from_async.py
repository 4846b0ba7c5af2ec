"""Write the package `_sync` from `_async`: the same code without `async` and `await`.

    python clients/python/tools/sync_from_async.py

`make clients` does it, and a test fails when a file is not what this program writes. Code that
waits differently is in `_async/pause.py`, which has a twin of its own.
"""

import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "bamboo_gateway_client"
OWN = frozenset({"pause.py"})
_HEAD = "# Made from _async/{name} by tools/sync_from_async.py. Do not edit: `make clients`.\n"
_WORDS = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAwaitable\[None\]", "None"),
    (r"\b_async\b", "_sync"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\b", r"\1"),
    (r"\bAbstractAsyncContextManager\b", "AbstractContextManager"),
    (r"\bAsync([A-Z]\w*)", r"\1"),
)


def sync_of(name: str, source: str) -> str:
    """Return the synchronous source of a module of `_async`."""
    for pattern, replacement in _WORDS:
        source = re.sub(pattern, replacement, source)
    return _HEAD.format(name=name) + source


def made() -> Iterator[tuple[Path, str]]:
    """Yield every file of `_sync` that is made, with the source that it must have."""
    for path in sorted((PACKAGE / "_async").glob("*.py")):
        if path.name not in OWN:
            yield PACKAGE / "_sync" / path.name, sync_of(path.name, path.read_text("utf-8"))


def main() -> None:
    """Write the files."""
    for path, source in made():
        path.write_text(source, "utf-8")


if __name__ == "__main__":
    main()

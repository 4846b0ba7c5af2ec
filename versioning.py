"""The version of a build, for the build backend: from the tags of git where there are some.

1. `GATEWAY_BUILD_VERSION`, which a container build or a packager sets;
2. `PKG-INFO`, which an sdist has;
3. git: at a tag `v1.2.3` with nothing changed, `1.2.3`; otherwise a development version of the next
   release, which names the commit;
4. elsewhere, as in a copied folder, `RELEASE` of the package as a development version.
"""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VARIABLE = "GATEWAY_BUILD_VERSION"

_VERSION = re.compile(
    r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?"
)
_IN_PKG_INFO = re.compile(r"^Version: (.+)$", re.MULTILINE)
_IN_PACKAGE = re.compile(r'^RELEASE = "(.+)"$', re.MULTILINE)


def version(root: Path = ROOT) -> str:
    """Return the version of a build of this directory.

    Raises:
        ValueError: What names the version names none.
    """
    if named := os.environ.get(VARIABLE):
        return _checked(named.removeprefix("v"), VARIABLE)
    info = root / "PKG-INFO"
    if info.is_file() and (found := _IN_PKG_INFO.search(info.read_text("utf-8"))):
        return _checked(found[1].strip(), "PKG-INFO")
    return _of_git(root) or f"{release(root)}.dev0"


def release(root: Path = ROOT) -> str:
    """Return the release that the code becomes, as the package says."""
    text = (root / "app" / "bamboo_gateway" / "__init__.py").read_text("utf-8")
    found = _IN_PACKAGE.search(text)
    if found is None:
        raise ValueError("app/bamboo_gateway/__init__.py has no RELEASE")
    return _checked(found[1], "RELEASE")


def _of_git(root: Path) -> str | None:
    """Return the version that git knows; None without git, or inside of another repository."""
    top = _git(root, "rev-parse", "--show-toplevel")
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root.resolve():
        return None
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    tag, distance = "", "0"
    if described := _git(root, "describe", "--tags", "--long", "--match", "v[0-9]*"):
        tag, distance, _ = described.rsplit("-", 2)
        if distance == "0" and not changed:
            return _checked(tag.removeprefix("v"), f"the tag {tag}")
    local = f"+g{commit}" + ".changed" * changed
    return f"{_next(release(root), tag.removeprefix('v'))}.dev{distance}{local}"


def _next(planned: str, last: str) -> str:
    """Return the release that comes after `last`: the planned one, if it is later."""
    if not re.fullmatch(r"\d+(\.\d+)*", last) or _numbers(planned) > _numbers(last):
        return planned
    *numbers, patch = _numbers(last)
    return ".".join(map(str, (*numbers, patch + 1)))


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", release))


def _checked(text: str, source: str) -> str:
    if not _VERSION.fullmatch(text):
        raise ValueError(f"{source} is no version: {text!r}")
    return text


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # It may run beside a commit, and has nothing to write.
            ["git", "--no-optional-locks", *arguments],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

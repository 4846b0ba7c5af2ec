"""Install the wheel into an empty environment of one Python, and use it there as a person does."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx

from tests.processes import REPOSITORY, environment, free_port

PYTHONS: Final = ("3.11", "3.12", "3.13", "3.14")
"""The versions of Python that the gateway is for."""

_SECONDS: Final = 600
_START_SECONDS: Final = 60


def pythons() -> dict[str, Path]:
    """Return the interpreters of this machine, by version; also those that pyenv keeps unused."""
    found: dict[str, Path] = {}
    for version in PYTHONS:
        kept = sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(
            f"versions/{version}.*/bin/python3"))  # fmt: skip
        on_path = shutil.which(f"python{version}")
        for candidate in [
            sys.executable,
            *map(str, reversed(kept)),
            *([on_path] if on_path else []),
        ]:
            if version_of(candidate) == version:
                found[version] = Path(candidate)
                break
    return found


def version_of(python: str) -> str | None:
    """Return `3.12` for an interpreter that can make environments, else None."""
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
    except OSError:
        return None
    return done.stdout.strip() or None


def install_faults(python: Path, wheel: Path, lock: Path) -> Iterator[str]:
    """Install a wheel with what the lock names, and yield what does not work then."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        programs = _new_environment(python, place)
        pip: list[str | Path] = [
            programs / "python",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-qq",
        ]
        yield from _failure([*pip, "--require-hashes", "-r", lock])
        yield from _failure([*pip, "--no-deps", "--no-index", wheel])
        yield from use_faults(programs, place, wheel.name.split("-")[1])


def bare_install_faults(python: Path, sdist: Path, version: str) -> Iterator[str]:
    """Install an sdist as a bare machine does: pip builds it, and chooses what it needs."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        programs = _new_environment(python, place)
        pip: list[str | Path] = [
            programs / "python",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "-qq",
        ]
        yield from _failure([*pip, sdist])
        yield from use_faults(programs, place, version)


def use_faults(programs: Path, place: Path, version: str) -> Iterator[str]:
    """Ask the installed program for its version, serve, and have one conversation."""
    bamboo = programs / "bamboo"
    if not bamboo.is_file():
        yield "there is no program bamboo"
        return
    said = _ran([bamboo, "--version"], place).stdout.strip()
    if said != f"bamboo {version}":
        yield f"bamboo --version says {said!r}, and the wheel is {version}"
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    where = ["--port", str(port), "--data-dir", str(place / "data")]
    log = place / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [bamboo, "serve", *where], cwd=place, env=_outside(), stdout=output, stderr=output
        ) as gateway,
    ):
        if _is_ready(url, gateway):
            chat = _ran([bamboo, "chat", "Hello!", "--session", "first", "--url", url], place)
            if chat.returncode != 0 or "Hello!" not in chat.stdout:
                yield f"bamboo chat ended with {chat.returncode}: {chat.stdout}{chat.stderr}"
            gateway.terminate()
            if (code := gateway.wait(_START_SECONDS)) != 0:
                yield f"bamboo serve ended with {code}"
        else:
            gateway.kill()
            yield f"bamboo serve did not start:\n{log.read_text('utf-8', 'replace')}"


def _new_environment(python: Path, place: Path) -> Path:
    subprocess.run([python, "-m", "venv", place / "venv"], check=True, timeout=_SECONDS)
    return place / "venv" / "bin"


def _is_ready(url: str, gateway: "subprocess.Popen[bytes]") -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and gateway.poll() is None:
        try:
            if httpx.get(f"{url}/api/v1/health/ready", trust_env=False).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    return False


def _failure(command: list[str | Path]) -> Iterator[str]:
    done = _ran(command, REPOSITORY)
    if done.returncode != 0:
        last = re.sub(r"\s+", " ", done.stderr[-500:])
        yield f"{' '.join(map(str, command[1:5]))} … failed: {last}"


def _ran(command: list[str | Path], place: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=place,
        env=_outside(),
        capture_output=True,
        text=True,
        check=False,
        timeout=_SECONDS,
    )


def _outside() -> dict[str, str]:
    """Return an environment in which no path leads to this repository."""
    kept = environment()
    return {
        name: value for name, value in kept.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}
    }

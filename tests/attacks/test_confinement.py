"""The gateway writes only below `data_dir` and `export_dir`, and the container enforces it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typing_extensions import override

from tests.attacks import confined
from tests.attacks.test_files import live
from tests.processes import REPOSITORY, Gateway

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")
SERVICE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text("utf-8"))["services"][
    "bamboo"
]


def within(*directories: Path) -> list[str]:
    """Return the beginning of a command line that is confined to these directories."""
    return [sys.executable, confined.__file__, ":".join(map(str, directories))]


class ConfinedGateway(Gateway):
    """A gateway that the kernel lets write into its own directories alone."""

    writable: tuple[Path, ...] = ()

    @override
    def command(self) -> list[str]:
        return [*within(*self.writable), *super().command()]


@pytest.fixture
def writable(tmp_path: Path) -> Path:
    """The one directory that may be written, where this machine can hold anybody to that."""
    directory = tmp_path / "writable"
    directory.mkdir()
    script = f"open({str(directory / 'a')!r}, 'w'); open({str(tmp_path / 'b')!r}, 'w')"
    tried = subprocess.run(
        [*within(directory), sys.executable, "-c", script], capture_output=True, check=False
    )
    if tried.returncode == confined.NOT_HERE:
        pytest.skip("this kernel has no Landlock")
    assert b"PermissionError" in tried.stderr
    assert ((directory / "a").exists(), (tmp_path / "b").exists()) == (True, False)
    return directory


def test_the_gateway_writes_only_below_its_directories(tmp_path: Path, writable: Path) -> None:
    for name in ("data", "exports"):
        (writable / name).mkdir()
    settings = {
        "BAMBOO_EXPORT_DIR": str(writable / "exports"),
        "HOME": "/nonexistent",
        "TMPDIR": "/nonexistent",
    }
    gateway = ConfinedGateway(tmp_path, settings)
    gateway.writable = (writable / "data", writable / "exports")
    gateway.data_dir = writable / "data"
    with gateway:
        live(gateway.http)
        gateway.kill()
        gateway.start()
        report = gateway.http.get("/sessions/kept/diagnostics")
        assert report.is_success
        zipped = gateway.http.post("/export", json={"session_ids": ["kept"], "format": "json"})
        assert zipped.content.startswith(b"PK")
        assert gateway.stop() == 0
    assert "Traceback" not in gateway.log
    assert (writable / "exports" / "reports" / "a.yaml").exists()


def test_a_read_only_directory_stops_the_start_with_one_line(
    tmp_path: Path, writable: Path
) -> None:
    command = [sys.executable, "-m", "bamboo_gateway", "serve", "--port", "0", "--data-dir"]
    ended = subprocess.run(
        [*within(writable), *command, str(tmp_path / "elsewhere")],
        capture_output=True,
        check=False,
        cwd=REPOSITORY,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert re.fullmatch(r"error: [^\n]*elsewhere[^\n]*\n", ended.stderr), ended.stderr


def test_the_container_writes_only_its_volume() -> None:
    assert SERVICE["read_only"] is True
    assert SERVICE["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICE["security_opt"]
    assert [mount.split(":")[1] for mount in SERVICE["volumes"]] == ["/data"]
    forbidden = {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices", "user", "tmpfs"}
    assert not forbidden & set(SERVICE)
    assert all(port.startswith("127.0.0.1:") for port in SERVICE["ports"])


def test_the_image_runs_as_a_numbered_user_that_owns_the_volume_alone() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    (user,) = re.findall(r"^USER (\S+)$", final, re.MULTILINE)
    # A number, so that an orchestrator can see that it is not root.
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    after = final.split(f"USER {user}")[1]
    assert not re.search(r"^(RUN|COPY|ADD|USER) ", after, re.MULTILINE)
    assert "install -d -m 0700 -o bamboo -g bamboo /data" in final
    assert f"--uid {user.split(':')[0]} " in final
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)
    assert json.loads(entry) == ["bamboo", "serve"]


def test_nothing_of_the_image_is_fetched_without_its_hash() -> None:
    installs = re.findall(r"pip install[^\n]*", DOCKERFILE)
    assert installs
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert not re.search(r"^ADD |curl|wget|https?://(?!127\.0\.0\.1)", DOCKERFILE, re.MULTILINE)

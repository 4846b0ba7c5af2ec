"""Files on disk: only the owner may read them, and no symlink is followed."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from bamboo_gateway.credentials.keyfile import KeyFile
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.storage.base import StoreUnusable
from tests.api.serving import SECONDS, refused, serving
from tests.processes import Gateway
from tests.support.waiting import until

SECRET = "what lies outside"
TURN = {"options": {"delay_ms": 0, "tokens": 3}, "message": "hi"}


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask that a process started meanwhile inherits."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def live(api: httpx.Client) -> None:
    """Do everything that leaves files: sessions, runs, an archive, an import, a fork, exports."""

    def post(path: str, **request: Any) -> httpx.Response:
        answer = api.post(path, **request)
        assert answer.is_success, answer.text
        return answer

    for name in ("kept", "gone", "packed"):
        post("/chat", json=TURN | {"session_id": name}, headers={"Prefer": "wait=30"})
    post("/sessions/kept/fork", json={"new_id": "forked"})
    post("/import", json=api.get("/sessions/kept/export", params={"format": "json"}).json())
    post("/sessions/packed/archive")
    post("/sessions/forked/archive")
    post("/sessions/forked/restore")
    post("/sessions/kept/export", json={"format": "yaml", "path": "reports/a.yaml"})
    assert api.delete("/sessions/gone").status_code == 204


def modes(directory: Path) -> dict[str, str]:
    """Return the modes below a directory that others could use, by path.

    Of a directory at work: what has gone since it was listed has no mode any more.
    """
    found = {}
    for path in (directory, *directory.rglob("*")):
        with suppress(FileNotFoundError):
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if mode != (0o700 if stat.S_ISDIR(status.st_mode) else 0o600):
                found[str(path.relative_to(directory.parent))] = oct(mode)
    return found


@pytest.mark.parametrize("mask", [0o000, 0o077], ids=oct)
def test_only_the_owner_may_read_files_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    settings = {
        "BAMBOO_EXPORT_DIR": str(tmp_path / "exports"),
        "BAMBOO_DELTA_RETENTION_SECONDS": "0",
        "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.05",
    }
    directory = tmp_path / "a" / "b"
    directory.mkdir(parents=True)
    gateway = Gateway(directory, settings)
    gateway.data_dir = directory / "made" / "on the way" / "data"
    with umask(mask), gateway:
        live(gateway.http)
        assert modes(gateway.data_dir) == {}
        gateway.stop()
        log = gateway.data_dir / "events" / "kept.jsonl"
        log.write_bytes(log.read_bytes().replace(b"hi", b"ho"))  # to be set aside
        gateway.start()
        assert gateway.http.get("/sessions/kept/messages").status_code == 200
        until(
            lambda: (
                {"events", "archive", "quarantine"}
                <= {path.parent.name for path in gateway.data_dir.rglob("*") if path.is_file()}
            ),
            "what was damaged is set aside",
        )
        gateway.stop()
        KeyFile(gateway.data_dir / "keys.json").change(lambda keys: keys)
    assert modes(directory / "made") == {}
    assert modes(tmp_path / "exports") == {}


def snapshot(directory: Path) -> dict[str, Any]:
    """Return everything below a directory: content, mode and time of each name."""
    return {
        str(path): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in (directory, *directory.rglob("*"))
    }


@pytest.fixture(scope="module")
def _used_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("used")
    settings: dict[str, Any] = {
        "data_dir": directory / "data",
        "export_dir": directory / "exports",
    }
    with serving(storage_url="jsonl:", **settings) as served, served.client() as api:
        live(api)
    return directory


@pytest.fixture
def used(_used_once: Path, tmp_path: Path) -> Path:
    """A data directory in which everything has happened once, and `exports` beside it."""
    shutil.copytree(_used_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "data"


@pytest.mark.parametrize(
    "name",
    [
        "LOCK",
        "index/catalog.jsonl",
        "index/reserve",
        "events/kept.jsonl",
        "sessions/kept.json",
        "index/marks/kept.idx",
        "archive/packed.zst",
        "events",
        "sessions",
        "index",
        "index/aside",
        "index/marks",
        "archive",
        "quarantine",
    ],
)
def test_a_symlink_in_place_of_a_file_or_directory_is_never_followed(
    used: Path, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    planted = used / name
    if planted.exists():
        shutil.move(planted, outside / planted.name)
    else:
        (outside / planted.name).write_text(SECRET, encoding="utf-8")
    planted.symlink_to(outside / planted.name)
    before = snapshot(outside)
    refusal: str | None = None
    try:
        with serving(storage_url="jsonl:", data_dir=used) as served, served.client() as api:
            for call in (
                lambda: api.get("/sessions"),
                lambda: api.get("/archive"),
                lambda: api.get("/sessions/kept/messages"),
                lambda: api.post("/chat", json=TURN | {"session_id": "kept"}),
                lambda: api.post("/sessions/packed/restore"),
                lambda: api.post("/sessions/kept/archive"),
                lambda: api.delete("/archive/packed"),
                lambda: api.delete("/sessions/kept"),
            ):
                assert SECRET not in call().text
            made = api.post("/chat", json=TURN | {"session_id": "new"})
            assert made.status_code in {202, 503}
    except StoreUnusable as error:
        refusal = error.detail
    if refusal is not None:
        assert "link" in refusal
        assert str(planted) in refusal
    assert snapshot(outside) == before


def test_dangling_symlinks_create_no_file(used: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in (
        "events/new.jsonl",
        "sessions/new.json",
        "index/marks/new.idx",
        "archive/kept.zst",
        *(f"index/journal-{number:012d}.jsonl" for number in range(1, 20)),
    ):
        if not (used / name).exists():
            (used / name).symlink_to(outside / "made")
    with (
        suppress(StoreUnusable),
        serving(storage_url="jsonl:", data_dir=used) as served,
        served.client() as api,
    ):
        api.post("/sessions", json={"id": "new"})
        api.post("/sessions/kept/archive")
    assert list(outside.iterdir()) == []


def test_logs_and_bundles_are_not_read_through_symlinks(tmp_path: Path) -> None:
    other, here = tmp_path / "other", tmp_path / "here"
    with serving(storage_url="jsonl:", data_dir=other) as served, served.client() as api:
        for name in ("stolen", "archived"):
            message = {"role": "user", "content": SECRET}
            api.post("/sessions", json={"id": name})
            api.post(f"/sessions/{name}/messages", json=message)
        api.post("/sessions/archived/archive")
    with serving(storage_url="jsonl:", data_dir=here):
        pass
    for name in ("events/stolen.jsonl", "sessions/stolen.json", "archive/archived.zst"):
        assert (other / name).exists()
        (here / name).symlink_to(other / name)
    before = snapshot(other)
    with serving(storage_url="jsonl:", data_dir=here) as served, served.client() as api:
        for path in ("/sessions/stolen/messages", "/sessions/archived/export"):
            assert SECRET not in api.get(path).text
        # It stays in the journal: its log cannot be written.
        assert api.post("/sessions", json={"id": "stolen"}).status_code == 201
    # Without a catalog every name is looked at.
    (here / "events" / "planted.jsonl").symlink_to(other / "events" / "stolen.jsonl")
    (here / "index" / "catalog.jsonl").unlink()
    with (
        pytest.raises(StoreUnusable, match=r"symbolic link .*(planted|stolen)\.jsonl"),
        serving(storage_url="jsonl:", data_dir=here),
    ):
        pass
    assert snapshot(other) == before


def test_the_data_directory_itself_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with serving(storage_url="jsonl:", data_dir=tmp_path / "data") as served:
        assert httpx.post(
            f"{served.url}/api/v1/sessions", json={}, trust_env=False, timeout=SECONDS
        ).is_success
    assert (tmp_path / "disk" / "LOCK").exists()


def test_a_circular_data_directory_symlink_is_refused_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(tmp_path / "data")
    with (
        pytest.raises(BambooError, match="cannot be"),
        serving(storage_url="jsonl:", data_dir=tmp_path / "data"),
    ):
        pass


def test_no_export_leaves_its_directory_through_a_symlink(used: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file.md").write_text(SECRET, encoding="utf-8")
    exports = tmp_path / "exports"
    (exports / "away").symlink_to(outside)
    (exports / "file.md").symlink_to(outside / "file.md")
    before = snapshot(outside)
    settings: dict[str, Any] = {"storage_url": "jsonl:", "data_dir": used, "export_dir": exports}
    with serving(**settings) as served, served.client() as api:
        body = {"format": "markdown", "path": "away/a.md"}
        refused(api.post("/sessions/kept/export", json=body), 422, "invalid-path")
        # A link at the end is replaced by the file.
        body = {"format": "markdown", "path": "file.md"}
        assert api.post("/sessions/kept/export", json=body).status_code == 200
    assert not (exports / "file.md").is_symlink()
    assert snapshot(outside) == before

"""The commands for the lifecycle of sessions, over HTTP."""

import json
import zipfile
from pathlib import Path

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def create(gateway: Gateway, session: str, *texts: str, **fields: object) -> None:
    gateway.call("POST", "/sessions", json={"id": session, **fields})
    if texts:
        said = [{"role": "user", "content": text} for text in texts]
        gateway.call("POST", f"/sessions/{session}/messages", json=said)


def state(gateway: Gateway, session: str) -> str:
    return str(gateway.call("GET", f"/sessions/{session}")["state"])


def test_sessions_are_archived_listed_and_restored(gateway: Gateway, url: str) -> None:
    create(gateway, "ar-1", "x", title="One\x1b[31m")
    create(gateway, "ar-2", "x")
    looked = bamboo("archive", "ar-1", "--dry-run", url=url)
    assert "would archive ar-1" in looked.stderr
    assert state(gateway, "ar-1") == "idle"
    done = bamboo("archive", "ar-1", "nobody", "ar-2", url=url)
    assert done.returncode == 1
    assert "archived ar-1" in done.stdout
    assert "(session-not-found)" in done.stderr
    listed = bamboo("archive", url=url).stdout
    assert "ar-1" in listed
    assert "\x1b" not in listed
    shapes = [json.loads(line) for line in bamboo("archive", "--json", url=url).stdout.splitlines()]
    assert {shape["session"]["id"] for shape in shapes} >= {"ar-1", "ar-2"}
    assert bamboo("restore", "ar-1", url=url).returncode == 0
    assert state(gateway, "ar-1") == "idle"


def test_deleting_from_the_archive_asks(gateway: Gateway, url: str) -> None:
    create(gateway, "ad-1", "x")
    assert bamboo("archive", "--delete", "ad-1", "--yes", url=url).returncode == 1
    bamboo("archive", "ad-1", url=url)
    assert bamboo("archive", "--delete", "ad-1", url=url).returncode == 2
    assert "would delete" in bamboo("archive", "--delete", "--dry-run", "ad-1", url=url).stderr
    with Terminal("archive", "--delete", "ad-1", url=url) as terminal:
        terminal.until("for good?")
        terminal.type("y\n")
        assert terminal.exit_code() == 0
    assert gateway.http.get("/sessions/ad-1").status_code == 404


def test_exports_are_imported_again(gateway: Gateway, url: str, tmp_path: Path) -> None:
    create(gateway, "ex-1", "hello", title="T")
    assert "hello" in bamboo("export", "ex-1", url=url).stdout
    file = tmp_path / "a.yaml"
    wrote = bamboo("export", "ex-1", "-f", "yaml", "-o", str(file), url=url)
    assert wrote.returncode == 0
    made = json.loads(bamboo("import", str(file), "--json", url=url).stdout)
    assert made["title"] == "T"
    assert made["message_count"] == 1
    clash = bamboo("import", "--keep-id", str(file), url=url)
    assert clash.returncode == 1
    assert "(session-exists)" in clash.stderr
    archive = tmp_path / "all.zip"
    bamboo("export", "ex-1", made["id"], "--format", "json", "-o", str(archive), url=url)
    with zipfile.ZipFile(archive) as opened:
        assert len(opened.namelist()) == 2
    assert bamboo("import", str(tmp_path / "none"), url=url).returncode == 2
    several = Path(__file__).parents[1] / "exporters" / "samples" / "chatgpt.json"
    all_of_it = bamboo("import", str(several), url=url)
    assert all_of_it.returncode == 0
    assert len(all_of_it.stdout.splitlines()) == 2
    assert "holds no message" in all_of_it.stderr
    one = bamboo("import", str(several), "--conversation", "2", "--json", url=url)
    assert json.loads(one.stdout)["id"]
    assert bamboo("import", str(several), "--conversation", "9", url=url).returncode == 1
    missing = tmp_path / "missing.md"
    assert bamboo("export", "nobody", "-o", str(missing), url=url).returncode == 1
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.yaml", "all.zip"]


def test_branches_are_made_merged_and_drawn(gateway: Gateway, url: str) -> None:
    create(gateway, "br-1", "a", "b", title="Root")
    made = bamboo("fork", "br-1", "--index", "0", "--new-id", "br-2", "--name", "Try", url=url)
    assert made.stdout == "br-2  1 messages\n"
    gateway.call("POST", "/sessions/br-2/messages", json={"role": "user", "content": "c"})
    assert bamboo("merge", "br-1", "br-2", url=url).stdout == "br-1  3 messages\n"
    drawn = bamboo("tree", "br-2", url=url).stdout
    assert "br-1  Root  ← br-2" in drawn
    assert "br-2  Try  ◀ this one" in drawn
    shape = json.loads(bamboo("tree", "br-2", "--json", url=url).stdout)
    assert shape["branches"][0]["session_id"] == "br-2"
    assert "(self-merge)" in bamboo("merge", "br-1", "br-1", url=url).stderr


def test_statistics_reports_and_extensions_are_shown(gateway: Gateway, url: str) -> None:
    create(gateway, "st-1", "one", title="A title")
    gateway.call("PUT", "/sessions/st-1/summary", json={"summary": "In short."})
    assert json.loads(bamboo("stats", "st-1", "--json", url=url).stdout)["total_messages"] == 1
    assert "total_messages" in bamboo("stats", url=url).stdout
    assert bamboo("report", "st-1", url=url).stdout.startswith("# A title\n")
    assert json.loads(bamboo("report", "st-1", "--json", url=url).stdout)["title"] == "A title"
    assert "In short." in bamboo("resume", "st-1", "--non-interactive", url=url).stdout
    set_up = bamboo("extensions", "st-1", "--enable", "memory", "--todo", "- x", url=url).stdout
    assert "on   memory" in set_up
    assert "- x" in set_up
    off = json.loads(bamboo("extensions", "st-1", "--disable", "memory", "--json", url=url).stdout)
    assert off["enabled_extensions"][0]["enabled"] is False


def test_cleanup_shows_asks_and_deletes(gateway: Gateway, url: str) -> None:
    create(gateway, "cl-1", "x")
    last = gateway.call("GET", "/sessions/cl-1")["last_activity_at"]
    before = "2000-01-01T00:00:00Z"
    looked = bamboo("cleanup", "--before", before, "--dry-run", "--json", url=url)
    assert json.loads(looked.stdout)["session_ids"] == []
    assert bamboo("cleanup", url=url).returncode == 2
    assert bamboo("cleanup", "--yes", "--before", before, url=url).returncode == 0
    assert gateway.call("GET", "/sessions/cl-1")["last_activity_at"] == last
    assert bamboo("cleanup", "--before", "yesterday", "--dry-run", url=url).returncode == 1


def test_a_gateway_is_diagnosed_and_a_bug_report_written(
    gateway: Gateway, url: str, tmp_path: Path
) -> None:
    create(gateway, "dg-1", "my password=hunter2222")
    shown = bamboo("diagnose", url=url)
    assert shown.returncode == 0
    for name in ("disk space", "catalog", "records", "journal age", "agent default"):
        assert name in shown.stdout
    lines = bamboo("diagnose", "--json", url=url).stdout.splitlines()
    assert {json.loads(line)["name"] for line in lines} >= {"catalog", "records"}
    target = tmp_path / "bug.zip"
    assert bamboo("diagnose", "dg-1", "-o", str(target), url=url).returncode == 0
    with zipfile.ZipFile(target) as opened:
        told = b"".join(opened.read(name) for name in opened.namelist())
    assert b"hunter2222" not in told
    assert bamboo("diagnose", "nobody", "-o", str(target), url=url).returncode == 1

"""`bamboo files …` and `bamboo chat --attach`: files go up, are listed, come back, are deleted."""

import json
from pathlib import Path

import pytest

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2000


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a picture [b].png"
    path.write_bytes(PNG)
    return path


def uploaded(url: str, *arguments: str) -> dict[str, str]:
    made = bamboo("files", "upload", *arguments, "--json", url=url)
    assert made.returncode == 0, made.stderr
    file: dict[str, str] = json.loads(made.stdout)
    return file


def test_files_are_uploaded_listed_downloaded_and_deleted(
    url: str, tmp_path: Path, picture: Path
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    made = bamboo("files", "upload", str(picture), str(table), url=url)
    assert (made.returncode, made.stderr) == (0, "")
    first, second = made.stdout.splitlines()
    assert first.split(maxsplit=3)[1:] == [str(len(PNG)), "image/png", picture.name]
    assert second.split(maxsplit=3)[1:] == ["8", "text/csv", "table.csv"]
    listed = bamboo("files", "list", url=url).stdout.splitlines()
    assert {first, second} <= set(listed)
    shapes = [
        json.loads(line) for line in bamboo("files", "list", "--json", url=url).stdout.splitlines()
    ]
    ids = [line.split()[0] for line in (first, second)]
    assert set(ids) <= {shape["file_id"] for shape in shapes}
    there = tmp_path / "down.png"
    there.write_text("an earlier file")
    got = bamboo("files", "get", ids[0], "--output", str(there), url=url)
    assert (got.returncode, got.stdout) == (0, "")
    assert there.read_bytes() == PNG
    assert bamboo("files", "get", ids[1], url=url).stdout == "a,b\n1,2\n"
    for file_id in ids:
        assert bamboo("files", "delete", file_id, url=url).returncode == 0
    gone = bamboo("files", "get", ids[0], "-o", str(there), url=url)
    assert gone.returncode == 1
    assert "(file-not-found)" in gone.stderr
    assert there.read_bytes() == PNG, "what was there stays when a download fails"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        (picture.name, "table.csv", "down.png")
    )


def test_the_type_of_a_file_is_that_of_its_name_or_the_one_given(url: str, tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("plain")
    assert uploaded(url, str(path))["media_type"] == "application/octet-stream"
    assert uploaded(url, str(path), "--type", "text/plain")["media_type"] == "text/plain"
    refused = bamboo("files", "upload", str(path), "--type", "image/png", url=url)
    assert refused.returncode == 1
    assert "(not-an-image)" in refused.stderr


def test_what_is_no_file_and_no_id_is_said(url: str, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        refused = bamboo("files", "upload", str(path), url=url)
        assert refused.returncode == 1
        assert str(path) in refused.stderr.replace("\n", "")
        assert "Traceback" not in refused.stderr
    for command in ("get", "delete"):
        refused = bamboo("files", command, "../sessions", url=url)
        assert refused.returncode == 2
        assert "is no id of a file" in refused.stderr


def test_a_message_takes_files_along(
    gateway: Gateway, url: str, tmp_path: Path, picture: Path
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    attached = ("--attach", str(picture), "--attach", str(text))
    said = bamboo("chat", "look at these", "--session", "cf-1", *attached, url=url)
    assert said.returncode == 0, said.stderr
    message = gateway.call("GET", "/sessions/cf-1/messages")["messages"][0]
    kinds = [(part["type"], part.get("name")) for part in message["content"]]
    assert kinds == [("text", None), ("image", picture.name), ("file", "notes.txt")]
    file_id = message["content"][1]["file_id"]
    assert bamboo("files", "get", file_id, "-o", str(text), url=url).returncode == 0
    assert text.read_bytes() == PNG
    refused = bamboo("files", "delete", file_id, url=url)
    assert refused.returncode == 1
    assert "(file-in-use)" in refused.stderr
    assert "cf-1" in refused.stderr


def test_a_message_whose_file_is_missing_is_not_sent(
    gateway: Gateway, url: str, tmp_path: Path
) -> None:
    missing = str(tmp_path / "none.png")
    refused = bamboo("chat", "look", "--session", "cf-2", "--attach", missing, url=url)
    assert refused.returncode == 1
    assert gateway.http.get("/sessions/cf-2").status_code == 404


def test_a_terminal_shows_the_progress_of_a_file_of_any_name(url: str, tmp_path: Path) -> None:
    path = tmp_path / "{task} [bold]{0}.txt"
    path.write_bytes(b"x" * 3_000_000)
    with Terminal("files", "upload", str(path), url=url, kind="xterm") as terminal:
        assert terminal.exit_code() == 0, terminal.screen
        assert "3000000  text/plain  {task} [bold]{0}.txt" in terminal.screen

"""Attacks by files: what a browser could run, names that lead elsewhere, clients without end."""

import io
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.serving import SECONDS, Served, refused
from tests.api.users import serving_users, user

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 10
SCRIPT = b"<!doctype html><script>fetch('/api/v1/sessions').then(alert)</script>"
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("uploads") / "data"
    limits: dict[str, Any] = {
        "max_file_bytes": 300_000,
        "upload_timeout_seconds": 0.5,
        "max_uploads_per_caller": 3,
        "max_import_bytes": 500_000,
    }
    with serving_users(storage_url="jsonl:", data_dir=data_dir, **limits) as running:
        yield running


@pytest.fixture
def api(gateway: Served) -> Iterator[httpx.Client]:
    with user(gateway, "mallory") as client:
        yield client


def upload(api: httpx.Client, data: bytes, kind: str, name: str = "a") -> httpx.Response:
    return api.post("/files", params={"name": name}, content=data, headers={"Content-Type": kind})


ACTIVE = {
    "HTML": (SCRIPT, "text/html"),
    "XHTML": (SCRIPT, "application/xhtml+xml"),
    "SVG": (SVG, "image/svg+xml"),
    "XML with a style sheet": (b"<?xml-stylesheet href='x'?><x/>", "text/xml"),
    "HTML that says nothing": (SCRIPT, "application/octet-stream"),
    "HTML as text": (SCRIPT, "text/plain"),
    "JavaScript": (b"alert(1)", "text/javascript"),
    "PDF": (b"%PDF-1.7 /JS (app.alert(1))", "application/pdf"),
    "multipart/related": (SCRIPT, "multipart/related"),
    "an odd picture": (SCRIPT, "image/x-icon"),
}


@pytest.mark.parametrize("what", ACTIVE)
def test_nothing_that_could_run_is_ever_shown_as_a_page(api: httpx.Client, what: str) -> None:
    data, kind = ACTIVE[what]
    file = upload(api, data, kind).json()
    answer = api.get(f"/files/{file['file_id']}")
    assert answer.content == data
    headers = answer.headers
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "private, no-cache"
    assert headers["cross-origin-resource-policy"] == "same-site"


@pytest.mark.parametrize(
    "kind", ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif"]
)
@pytest.mark.parametrize(
    "data",
    [SCRIPT, SVG, b"", b"PK\x03\x04" + b"\0" * 100, b"RIFF1234HTML" + SCRIPT, b"GIF8" + SCRIPT],
)
def test_what_only_says_that_it_is_a_picture_is_refused(
    api: httpx.Client, kind: str, data: bytes
) -> None:
    refused(upload(api, data, kind), 422, "not-an-image")


def test_a_picture_of_another_kind_gets_its_real_type_and_is_shown(api: httpx.Client) -> None:
    file = upload(api, PNG, "IMAGE/JPEG; charset=utf-7").json()
    assert file["media_type"] == "image/png"
    answer = api.get(f"/files/{file['file_id']}")
    assert answer.headers["content-disposition"].startswith("inline;")
    assert answer.headers["content-type"] == "image/png"
    assert "sandbox" in answer.headers["content-security-policy"]
    saved = api.get(f"/files/{file['file_id']}", params={"download": True})
    assert saved.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    "kind", ["nonsense", "text/", "/html", "a/b/c", "text/h tml", "x" * 300 + "/y"]
)
def test_a_media_type_that_is_none_is_refused(api: httpx.Client, kind: str) -> None:
    refused(upload(api, b"x", kind), 422, "invalid")


NAMES = {
    "../../etc/passwd": "passwd",
    "..\\..\\boot.ini": "boot.ini",
    "/": "file.txt",
    "..": "file.txt",
    "": "file.txt",
    " . ": "file.txt",
    "a\r\nSet-Cookie: x=1\r\n\r\n<html>": "aSet-Cookie: x=1<html>",
    "a\r\nSet-Cookie: x=1": "aSet-Cookie: x=1",
    'a"; filename="b.exe': 'a"; filename="b.exe',
    "a\x00.png\x1b[2J": "a.png[2J",
    "gpj\u202eexe.png": "gpjexe.png",
    "\u2066a\u2069\u200b.txt": "a.txt",
    "caf\u00e9 \u6f22\u5b57.png": "caf\u00e9 \u6f22\u5b57.png",
    "x" * 3000 + ".tar.gz": "x" * 197 + ".gz",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_text_and_neither_a_path_nor_a_header(
    gateway: Served, api: httpx.Client, name: str, tmp_path: Path
) -> None:
    """R13."""
    answer = upload(api, b"x" + name.encode("utf-8", "replace"), "text/plain", name)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == NAMES[name]
    shown = api.get(f"/files/{answer.json()['file_id']}")
    disposition = shown.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.count('"') == 2
    assert "set-cookie" not in shown.headers
    directory = gateway.app.state.settings.data_dir / "files"
    for path in directory.rglob("*"):
        assert set(path.name) <= set("0123456789abcdef") or path.name == "aside"


def test_names_of_forms_are_no_paths_either(api: httpx.Client) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="C:\\\\evil\\\\..\\\\a.txt"'
        b"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--x--\r\n"
    )
    answer = api.post(
        "/files", content=form, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.json()["name"] == "a.txt"


@pytest.mark.parametrize("file_id", ["..%2F..%2Fetc", "%2e%2e", "a%00b", "a%0ab", "x" * 200, "a b"])
def test_an_id_is_no_path(api: httpx.Client, file_id: str) -> None:
    """R13."""
    assert api.get(f"/files/{file_id}").status_code in {404, 422}


def test_another_users_id_is_the_same_as_none(gateway: Served, api: httpx.Client) -> None:
    with user(gateway, "victim") as victim:
        file = upload(victim, PNG, "image/png").json()
        victim.post("/sessions", json={"id": "of-victim"})
        part = {"type": "image", "file_id": file["file_id"]}
        victim.post("/sessions/of-victim/messages", json={"role": "user", "content": [part]})
    path = f"/files/{file['file_id']}"
    for method in ("GET", "HEAD", "DELETE"):
        theirs, unknown = api.request(method, path), api.request(method, "/files/file_none")
        assert theirs.status_code == unknown.status_code == 404
        assert theirs.text.replace(file["file_id"], "file_none") == unknown.text
    as_victim = api.post("/files", params={"user_id": "victim"}, content=b"x")
    refused(as_victim, 403, "forbidden")
    # A document that names it brings nothing.
    document = {
        "bamboo_export": 1,
        "session": {"created_at": "2026-01-01T00:00:00.000Z"},
        "messages": [
            {
                "id": "m1",
                "role": "user",
                "content": [
                    {**part, "name": "a", "media_type": "image/png", "sha256": file["sha256"]}
                ],
                "created_at": "2026-01-01T00:00:00.000Z",
            }
        ],
        "message_count": 1,
    }
    made = api.post("/import", json=document)
    assert made.status_code == 201, made.text
    [message] = api.get(f"/sessions/{made.json()['id']}/messages").json()["messages"]
    assert message["content"][0]["type"] == "text"
    assert api.get(path).status_code == 404


def _send_slowly(gateway: Served, count: int) -> list[socket.socket]:
    sockets = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=SECONDS)
        sock.sendall(
            b"POST /api/v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Test-User: mallory\r\n"
            b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        )
        sockets.append(sock)
    return sockets


def test_a_client_that_uploads_for_ever_is_ended_and_nothing_of_it_stays(
    gateway: Served, api: httpx.Client
) -> None:
    """R11."""
    before = api.get("/files").json()
    sockets = _send_slowly(gateway, 3)
    answers = [sock.recv(65536) for sock in sockets]
    for sock in sockets:
        sock.close()
    assert all(b" 408 " in answer.split(b"\r\n")[0] for answer in answers), answers
    assert api.get("/files").json() == before
    aside = gateway.app.state.settings.data_dir / "files" / "aside"
    assert list(aside.iterdir()) == []
    assert upload(api, b"still here", "text/plain").status_code == 201


def test_more_uploads_at_a_time_than_allowed_are_refused(
    gateway: Served, api: httpx.Client
) -> None:
    """R11. Those that go on end by themselves."""
    sockets = _send_slowly(gateway, 8)
    answers = [sock.recv(65536) for sock in sockets]
    for sock in sockets:
        sock.close()
    lines = [answer.split(b"\r\n")[0] for answer in answers]
    assert any(b" 429 " in line for line in lines), lines
    assert upload(api, b"and again", "text/plain").status_code == 201


def test_an_upload_that_breaks_off_leaves_nothing(gateway: Served, api: httpx.Client) -> None:
    before = api.get("/files").json()
    for sock in _send_slowly(gateway, 2):
        sock.close()
    # Another request comes after the end of those.
    assert upload(api, b"next", "text/plain").status_code == 201
    after = api.get("/files").json()["files"]
    assert [one["name"] for one in after[len(before["files"]) :]] == ["a"]


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


DOCUMENT = (
    b'{"bamboo_export":1,"session":{"created_at":"2026-01-01T00:00:00.000Z"},"messages":'
    b'[{"id":"m","role":"user","created_at":"2026-01-01T00:00:00.000Z","content":'
    b'[{"type":"file","file_id":"file_x","sha256":"%b","name":"x","media_type":"text/html"}]}],'
    b'"message_count":1}'
)
DIGEST = b"a" * 64
NAMED = ("session.json", DOCUMENT % DIGEST)
CONTENT = "files/" + DIGEST.decode()
BAD_ZIPS = {
    "no zip": b"PK\x03\x04 nothing",
    "empty": b"",
    "no document": zipped(("other.json", b"{}")),
    "a content that is not what its name says": zipped(NAMED, (CONTENT, b"evil")),
    "a bomb": zipped(NAMED, (CONTENT, b"\0" * 40_000_000)),
    "a document that is a bomb": zipped(("session.json", b"[" + b" " * 60_000_000)),
    "cut": zipped(NAMED, (CONTENT, b"x" * 1000), compression=zipfile.ZIP_STORED)[:-400],
    "too many members": zipped(NAMED, *((f"files/{n}", b"") for n in range(600))),
}


@pytest.mark.parametrize("what", BAD_ZIPS)
def test_a_zip_that_is_no_export_is_refused_and_costs_nothing(api: httpx.Client, what: str) -> None:
    before = api.get("/sessions").json()["total"]
    data = BAD_ZIPS[what]
    answer = api.post("/import", content=data, headers={"Content-Type": "application/zip"})
    assert answer.status_code in {413, 422}, answer.text
    assert api.get("/sessions").json()["total"] == before


def test_paths_in_a_zip_lead_nowhere(api: httpx.Client, tmp_path: Path) -> None:
    """Members are looked up by digest: what has another name is not read at all."""
    data = zipped(NAMED, ("../../../evil", b"evil"), ("/etc/evil", b"evil"))
    made = api.post("/import", content=data, headers={"Content-Type": "application/zip"})
    assert made.status_code == 201, made.text
    assert [note["place"] for note in made.json()["notes"]] == ["files"]


def test_a_zip_that_is_larger_than_allowed_is_refused_while_it_comes(api: httpx.Client) -> None:
    answer = api.post(
        "/import", content=b"PK" * 300_000, headers={"Content-Type": "application/zip"}
    )
    refused(answer, 413, "too-large")

"""Files at a running gateway: uploads, names in messages, downloads, who may read them."""

import io
import json
import zipfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.serving import Served, refused
from tests.api.users import serving_users, user

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8
LARGEST = 300_000


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("files") / "data"
    with serving_users(max_file_bytes=LARGEST, data_dir=data_dir) as running:
        yield running


@pytest.fixture
def alice(gateway: Served) -> Iterator[httpx.Client]:
    with user(gateway, "alice") as client:
        yield client


@pytest.fixture
def bob(gateway: Served) -> Iterator[httpx.Client]:
    with user(gateway, "bob") as client:
        yield client


def upload(
    client: httpx.Client,
    data: bytes = PNG,
    kind: str = "image/png",
    name: str = "a.png",
    **headers: str,
) -> dict[str, Any]:
    answer = client.post(
        "/files", params={"name": name}, content=data, headers={"Content-Type": kind, **headers}
    )
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def name_in(
    client: httpx.Client, session_id: str, file_id: str, kind: str = "image"
) -> httpx.Response:
    message = {"role": "user", "content": [{"type": kind, "file_id": file_id}]}
    return client.post(f"/sessions/{session_id}/messages", json=message)


def path(file: dict[str, Any]) -> str:
    return f"/files/{file['file_id']}"


def test_an_upload_is_answered_with_all_that_is_known_of_it(alice: httpx.Client) -> None:
    answer = alice.post(
        "/files", params={"name": "a.png"}, content=PNG, headers={"Content-Type": "image/png"}
    )
    file = answer.json()
    assert answer.headers["location"] == file["url"] == f"/api/v1/files/{file['file_id']}"
    assert (file["name"], file["media_type"], file["bytes"]) == ("a.png", "image/png", len(PNG))
    assert file["sha256"] == sha256(PNG).hexdigest()
    assert alice.get(path(file)).content == PNG


def test_a_form_with_one_file_is_an_upload(alice: httpx.Client) -> None:
    data = b"a,b\r\n--not-the-boundary\r\n" * 9000
    answer = alice.post(
        "/files",
        data={"note": "dropped"},
        files={"file": ("t\u00e4bel.csv", data, "text/csv; charset=utf-8")},
    )
    file = answer.json()
    assert (answer.status_code, file["name"], file["media_type"]) == (
        201,
        "t\u00e4bel.csv",
        "text/csv",
    )
    whole = alice.get(path(file))
    assert whole.content == data
    # Nobody knows its charset.
    assert whole.headers["content-type"] == "text/csv"
    assert alice.head(path(file)).headers["content-type"] == "text/csv"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x\r\n",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nno file\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; filename=a\r\n\r\nnever ends",
        b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\n\r\n--x--\r\n",
        b"--x\r\n\r\n\r\n" * 50 + b"--x--\r\n",
        b"\x00\xff",
    ],
)
def test_a_form_that_is_none_is_refused_and_leaves_nothing(
    alice: httpx.Client, body: bytes
) -> None:
    before = alice.get("/files").json()
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(alice.post("/files", content=body, headers=kind), 400, "malformed")
    no_boundary = {"Content-Type": "multipart/form-data"}
    refused(alice.post("/files", content=body, headers=no_boundary), 400, "malformed")
    assert alice.get("/files").json() == before


def test_a_file_of_the_largest_size_fits_and_one_byte_more_does_not(alice: httpx.Client) -> None:
    assert upload(alice, b"x" * LARGEST, "text/plain")["bytes"] == LARGEST
    kind = {"Content-Type": "text/plain"}
    too_long = b"x" * (LARGEST + 1)
    refused(alice.post("/files", content=too_long, headers=kind), 413, "file-too-large")

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGEST // 1000 + 1):
            yield b"x" * 1000

    refused(alice.post("/files", content=pieces(), headers=kind), 413, "file-too-large")


def test_a_repeat_with_the_same_key_is_the_same_file(alice: httpx.Client) -> None:
    first = upload(alice, b"once", "text/plain", **{"Idempotency-Key": "k1"})
    again = alice.post(
        "/files",
        params={"name": "a.png"},
        content=b"once",
        headers={"Content-Type": "text/plain", "Idempotency-Key": "k1"},
    )
    assert (again.json(), again.headers["idempotency-replayed"]) == (first, "true")
    other = alice.post(
        "/files", content=b"other", headers={"Content-Type": "text/plain", "Idempotency-Key": "k1"}
    )
    refused(other, 422, "idempotency-key-reused")


def test_a_message_has_what_is_known_of_its_file_and_the_log_stays_small(
    alice: httpx.Client,
) -> None:
    file = upload(alice, PNG + b"x" * 200_000)
    alice.post("/sessions", json={"id": "small"})
    before = sum(len(str(one)) for one in alice.get("/sessions/small/events").json()["events"])
    added = name_in(alice, "small", file["file_id"])
    assert added.status_code == 201, added.text
    part = {
        "type": "image",
        "file_id": file["file_id"],
        "name": "a.png",
        "media_type": "image/png",
        "bytes": len(PNG) + 200_000,
    }
    assert added.json()["content"] == [part]
    [message] = alice.get("/sessions/small/messages").json()["messages"]
    assert message["content"] == [part]
    events = alice.get("/sessions/small/events").json()["events"]
    assert len(str(events[-1])) < 500
    assert before < 1000
    # What was read can be sent again as it is.
    again = alice.post("/sessions/small/messages", json={"role": "user", "content": [part]})
    assert again.json()["content"] == [part]


def test_files_that_are_unknown_or_of_somebody_else_are_refused_alike(
    alice: httpx.Client, bob: httpx.Client
) -> None:
    file = upload(alice)
    bob.post("/sessions", json={"id": "of-bob"})
    theirs = refused(name_in(bob, "of-bob", file["file_id"]), 422, "unknown-file")
    unknown = refused(name_in(bob, "of-bob", "file_nothing"), 422, "unknown-file")
    assert theirs["detail"].replace(file["file_id"], "X") == unknown["detail"].replace(
        "file_nothing", "X"
    )
    refused(
        bob.post(
            "/chat",
            json={
                "message": {
                    "role": "user",
                    "content": [{"type": "file", "file_id": file["file_id"]}],
                }
            },
        ),
        422,
        "unknown-file",
    )
    refused(bob.get(path(file)), 404, "file-not-found")
    refused(bob.delete(path(file)), 404, "file-not-found")
    assert bob.get("/files").json()["files"] == []


def test_readers_of_a_session_read_its_files_and_no_others(
    gateway: Served, alice: httpx.Client, bob: httpx.Client
) -> None:
    shown, hidden = upload(alice, PNG + b"1"), upload(alice, PNG + b"2")
    alice.post("/sessions", json={"id": "shared"})
    name_in(alice, "shared", shown["file_id"])
    refused(bob.get(path(shown)), 404, "file-not-found")
    alice.post("/sessions/shared/shares", json={"user_id": "bob"})
    assert bob.get(path(shown)).content == PNG + b"1"
    refused(bob.get(path(hidden)), 404, "file-not-found")
    with user(gateway, "alice", only_session="shared") as ticket:
        answer = ticket.get(path(shown))
        assert answer.content == PNG + b"1"
        # An `<img>` of a page elsewhere may show it: that page was given the ticket.
        assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
        refused(ticket.get(path(hidden)), 404, "file-not-found")
    alice.delete("/sessions/shared")
    refused(bob.get(path(shown)), 404, "file-not-found")
    assert alice.get(path(shown)).content == PNG + b"1"


def test_a_named_file_is_not_deleted_and_another_one_is(alice: httpx.Client) -> None:
    named, free = upload(alice, PNG + b"named"), upload(alice, PNG + b"free")
    alice.post("/sessions", json={"id": "names-it"})
    name_in(alice, "names-it", named["file_id"])
    problem = refused(alice.delete(path(named)), 409, "file-in-use")
    assert problem["session_ids"] == ["names-it"]
    assert alice.delete(path(free)).status_code == 204
    refused(alice.get(path(free)), 404, "file-not-found")
    refused(alice.delete(path(free)), 404, "file-not-found")
    refused(name_in(alice, "names-it", free["file_id"]), 422, "unknown-file")


def test_two_files_of_one_content_are_stored_once_and_deleted_one_by_one(
    alice: httpx.Client,
) -> None:
    first, second = upload(alice, PNG + b"twice"), upload(alice, PNG + b"twice", name="b.png")
    assert first["file_id"] != second["file_id"]
    assert alice.delete(path(first)).status_code == 204
    assert alice.get(path(second)).content == PNG + b"twice"


def test_lists_have_the_callers_files_in_pages(gateway: Served) -> None:
    with user(gateway, "carol") as carol:
        made = [upload(carol, b"%d" % number, "text/plain") for number in range(5)]
        first = carol.get("/files", params={"limit": 3}).json()
        rest = carol.get("/files", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        assert first["files"] + rest["files"] == made
        assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)


@pytest.fixture(scope="module")
def file(gateway: Served) -> dict[str, Any]:
    with user(gateway, "alice") as client:
        return upload(client, bytes(range(100)), "application/octet-stream", "r.bin")


class TestRanges:
    """RFC 9110, 14: one range, conditions, and what is ignored."""

    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [
            ("bytes=0-9", 0, 10),
            ("bytes=90-", 90, 100),
            ("bytes=-5", 95, 100),
            ("bytes=0-999", 0, 100),
            ("bytes=-999", 0, 100),
            ("bytes = 3-3", 3, 4),
        ],
    )
    def test_a_range_is_answered_with_that_part(
        self, alice: httpx.Client, file: dict[str, Any], wanted: str, start: int, end: int
    ) -> None:
        answer = alice.get(path(file), headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (206, bytes(range(100))[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/100"
        assert answer.headers["content-length"] == str(end - start)

    @pytest.mark.parametrize("wanted", ["bytes=100-", "bytes=-0", "bytes=999-1000"])
    def test_a_range_behind_the_end_is_416(
        self, alice: httpx.Client, file: dict[str, Any], wanted: str
    ) -> None:
        answer = alice.get(path(file), headers={"Range": wanted})
        refused(answer, 416, "range-not-satisfiable")
        assert answer.headers["content-range"] == "bytes */100"

    @pytest.mark.parametrize(
        "wanted",
        ["bytes=5-2", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b", "bytes=-", "bytes=" + "9" * 99],
    )
    def test_what_cannot_be_read_is_ignored(
        self, alice: httpx.Client, file: dict[str, Any], wanted: str
    ) -> None:
        answer = alice.get(path(file), headers={"Range": wanted})
        assert (answer.status_code, len(answer.content)) == (200, 100)

    def test_conditions(self, alice: httpx.Client, file: dict[str, Any]) -> None:
        whole = alice.get(path(file))
        etag, modified = whole.headers["etag"], whole.headers["last-modified"]
        assert etag == f'"{file["sha256"]}"'
        assert alice.get(path(file), headers={"If-None-Match": etag}).status_code == 304
        assert alice.get(path(file), headers={"If-Modified-Since": modified}).status_code == 304
        assert alice.get(path(file), headers={"If-None-Match": '"other"'}).status_code == 200
        for condition, status in ((etag, 206), (modified, 206), ('"other"', 200)):
            headers = {"Range": "bytes=0-0", "If-Range": condition}
            assert alice.get(path(file), headers=headers).status_code == status

    def test_head_has_the_headers_alone(self, alice: httpx.Client, file: dict[str, Any]) -> None:
        head, whole = alice.head(path(file)), alice.get(path(file))
        assert head.content == b""
        for name in ("content-length", "content-type", "etag", "accept-ranges"):
            assert head.headers[name] == whole.headers[name]


def test_quotas_count_contents_once(tmp_path: Path) -> None:
    settings = {"max_stored_bytes_per_user": 20_000, "data_dir": tmp_path / "data"}
    with (
        serving_users(**settings) as running,
        user(running, "alice") as alice,
        user(running, "bob") as bob,
    ):
        first = upload(alice, b"x" * 9_000, "text/plain")
        upload(alice, b"x" * 9_000, "text/plain")
        full = alice.post("/files", content=b"y" * 12_000)
        refused(full, 429, "storage-quota-reached")
        upload(bob, b"y" * 12_000, "text/plain")
        alice.post("/sessions", json={"id": "q"})
        assert name_in(alice, "q", first["file_id"], "file").status_code == 201


class TestExports:
    """A session goes out with its files, and comes back."""

    @pytest.fixture
    def zipped(self, alice: httpx.Client) -> bytes:
        picture, text = (
            upload(alice, PNG + b"zip"),
            upload(alice, b"t" * 9_000, "text/plain", "t.txt"),
        )
        alice.delete("/sessions/zips")
        alice.post("/sessions", json={"id": "zips"})
        parts = [
            {"type": "text", "text": "see"},
            {"type": "image", "file_id": picture["file_id"]},
            {"type": "file", "file_id": text["file_id"]},
        ]
        alice.post("/sessions/zips/messages", json={"role": "user", "content": parts})
        answer = alice.get(
            "/sessions/zips/export", params={"format": "json", "include_files": True}
        )
        assert answer.headers["content-type"] == "application/zip"
        return answer.content

    def test_a_zip_has_each_content_by_its_digest(self, zipped: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            names = archive.namelist()
            assert names[0] == "session.json"
            assert archive.read("files/" + sha256(PNG + b"zip").hexdigest()) == PNG + b"zip"
            [message] = json.loads(archive.read("session.json"))["messages"]
        assert [part.get("sha256") for part in message["content"][1:]] == [
            sha256(PNG + b"zip").hexdigest(),
            sha256(b"t" * 9_000).hexdigest(),
        ]

    def test_another_user_gets_files_of_their_own_with_the_zip(
        self, zipped: bytes, bob: httpx.Client
    ) -> None:
        kind = {"Content-Type": "application/zip"}
        made = bob.post("/import", content=zipped, headers=kind)
        assert made.status_code == 201, made.text
        assert made.json()["notes"] == []
        [message] = bob.get(f"/sessions/{made.json()['id']}/messages").json()["messages"]
        shown = [bob.get(f"/files/{part['file_id']}").content for part in message["content"][1:]]
        assert shown == [PNG + b"zip", b"t" * 9_000]
        assert message["content"][1]["type"] == "image"
        kept = bob.post("/import", params={"id": "keep"}, content=zipped, headers=kind)
        refused(kept, 409, "session-exists")

    def test_without_the_zip_another_user_gets_the_names_and_the_owner_the_files(
        self, zipped: bytes, alice: httpx.Client, bob: httpx.Client
    ) -> None:
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            document = archive.read("session.json")
        kind = {"Content-Type": "application/json"}
        theirs = bob.post("/import", content=document, headers=kind).json()
        assert [note["place"] for note in theirs["notes"]] == ["files"]
        [message] = bob.get(f"/sessions/{theirs['id']}/messages").json()["messages"]
        assert message["content"][1] == {
            "type": "text",
            "text": "[a.png: image/png, not in the import]",
        }
        own = alice.post("/import", content=document, headers=kind).json()
        assert own["notes"] == []
        [message] = alice.get(f"/sessions/{own['id']}/messages").json()["messages"]
        assert alice.get(f"/files/{message['content'][1]['file_id']}").content == PNG + b"zip"

    def test_forks_and_merges_name_the_same_files(self, zipped: bytes, alice: httpx.Client) -> None:
        child = alice.post("/sessions/zips/fork", json={}).json()["id"]
        alice.post("/sessions", json={"id": f"{child}-target"})
        merged = alice.post(f"/sessions/{child}-target/merge", json={"source_id": child})
        assert merged.status_code == 200, merged.text
        [message] = alice.get(f"/sessions/{child}/messages").json()["messages"]
        file_id = message["content"][1]["file_id"]
        problem = refused(alice.delete(f"/files/{file_id}"), 409, "file-in-use")
        assert {child, f"{child}-target", "zips"} <= set(problem["session_ids"])

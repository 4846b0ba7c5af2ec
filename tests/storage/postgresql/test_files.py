"""Files over HTTP, with their bytes in rows of PostgreSQL: what a client sees is the same."""

from pathlib import Path

import httpx

from bamboo_gateway.storage.files.base import PIECE_BYTES
from tests.api.serving import refused
from tests.api.users import serving_users, user

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3000


def test_a_file_is_uploaded_ranged_shared_and_there_after_a_restart(
    tmp_path: Path, postgres_url: str
) -> None:
    settings = {"storage_url": postgres_url, "data_dir": tmp_path / "data"}
    with (
        serving_users(**settings) as running,
        user(running, "alice") as alice,
        user(running, "bob") as bob,
    ):
        sent = {"Content-Type": "image/png", "Idempotency-Key": "k"}
        made = alice.post("/files", params={"name": "a.png"}, content=PNG, headers=sent).json()
        path = f"/files/{made['file_id']}"
        edge = {"Range": f"bytes={PIECE_BYTES - 2}-{PIECE_BYTES + 1}"}
        part = alice.get(path, headers=edge)
        assert (part.status_code, part.content) == (206, PNG[PIECE_BYTES - 2 : PIECE_BYTES + 2])
        alice.post("/sessions", json={"id": "s"})
        named = {"role": "user", "content": [{"type": "image", "file_id": made["file_id"]}]}
        assert alice.post("/sessions/s/messages", json=named).status_code == 201
        refused(bob.get(path), 404, "file-not-found")
        share = alice.post("/sessions/s/shares", json={"user_id": "bob"}).json()
        assert bob.get(path).content == PNG
        assert alice.delete(f"/sessions/s/shares/{share['id']}").is_success
        refused(bob.get(path), 404, "file-not-found")
        refused(alice.delete(path), 409, "file-in-use")
    with serving_users(**settings) as running, user(running, "alice") as alice:
        again = alice.post("/files", params={"name": "a.png"}, content=PNG, headers=sent)
        assert (again.status_code, again.json()) == (201, made)
        url = f"{running.url}/api/v1{path}"
        plain = httpx.stream("GET", url, headers={"X-Test-User": "alice"}, trust_env=False)
        with plain as download:
            pieces = download.iter_raw(1000)
            got = next(pieces)
            # Neither the end of its session nor another upload ends a download.
            assert alice.delete("/sessions/s").is_success
            assert _upload(alice) != made["file_id"]
            assert got + b"".join(pieces) == PNG
        assert alice.get(path).content == PNG


def _upload(client: httpx.Client) -> str:
    answer = client.post("/files", content=PNG, headers={"Content-Type": "image/png"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["file_id"])

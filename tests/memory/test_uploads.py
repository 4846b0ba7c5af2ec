"""R11: uploads hold a bounded part of memory, however many go on and however large they are."""

import socket
from pathlib import Path

import pytest

from bamboo_gateway.domain.limits import MiB
from tests.memory.test_exports import Process

UPLOADS = 50
BYTES = 4 * MiB
BOUND = 60 * MiB
"""Fifty uploads with 512 KiB each are 25 MiB, and the interpreter takes more than it uses."""

HEAD = (
    b"POST /api/v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Length: %d\r\n\r\n" % (BYTES + 1)
)


def test_fifty_uploads_that_stall_hold_little_memory(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the memory of a process is looked at through /proc")
    settings = {"BAMBOO_DURABILITY": "os", "BAMBOO_MAX_UPLOADS_PER_CALLER": "50"}
    with Process(tmp_path, settings) as gateway:
        # What the first upload brings into memory: modules, threads, connections.
        assert gateway.http.post("/files", content=b"x" * BYTES).status_code == 201
        piece = b"x" * 65536
        address = ("127.0.0.1", gateway.port)
        sockets = [socket.create_connection(address, timeout=60) for _ in range(UPLOADS)]
        answers: list[bytes] = []

        def stall() -> None:
            for sock in sockets:
                sock.sendall(HEAD)
            for _ in range(BYTES // len(piece)):
                for sock in sockets:
                    sock.sendall(piece)

        try:
            assert gateway.costs(stall) < BOUND
            for sock in sockets:
                sock.sendall(b"!")
            answers += [sock.recv(4096) for sock in sockets]
        finally:
            for sock in sockets:
                sock.close()
        assert all(b" 201 " in answer for answer in answers)

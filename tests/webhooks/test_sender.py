"""Requests to receivers that refuse, hang, lie, or lead elsewhere."""

import datetime
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bamboo_gateway.webhooks.base import Attempt
from bamboo_gateway.webhooks.http import CheckedBackend, HttpSender
from tests.webhooks.receiving import receiver, status

HEADERS = {"Content-Type": "application/json", "Webhook-Id": "msg_1"}


def sender(seconds: float = 30, private: bool = True) -> HttpSender:
    return HttpSender(timeout_seconds=seconds, private=private)


async def post(url: str, seconds: float = 30, private: bool = True) -> Attempt:
    return await sender(seconds, private).post(url, HEADERS, b"{}")


async def test_a_request_arrives_as_it_was_given() -> None:
    with receiver() as to:
        attempt = await post(f"{to.url}?a=ü b")
    assert (attempt.status, attempt.error) == (None, "address-refused")
    with receiver() as to:
        attempt = await post(f"{to.url}?a=ü&b=%20")
    assert (attempt.status, attempt.error) == (204, None)
    (got,) = to.received
    assert got.path == "/hook?a=%C3%BC&b=%20"
    assert got.headers["host"] == f"127.0.0.1:{to.port}"
    assert got.headers["webhook-id"] == "msg_1"
    assert got.body == b"{}"


@pytest.mark.parametrize("code", [200, 201, 202, 204, 299])
async def test_only_2xx_acknowledges(code: int) -> None:
    with receiver(status(code)) as to:
        assert (await post(to.url))[:2] == (code, None)


@pytest.mark.parametrize("code", [300, 304, 400, 404, 410, 429, 500, 503, 599])
async def test_everything_else_is_a_failure(code: int) -> None:
    with receiver(status(code)) as to:
        assert (await post(to.url))[:2] == (code, "status")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(code: int) -> None:
    with receiver() as canary, receiver(status(code, Location=canary.url)) as to:
        assert (await post(to.url))[:2] == (code, "status")
        assert canary.received == []


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", 120), ("x", None), ("-1", None), ("9" * 100, None)]
)
async def test_retry_after_is_read(header: str, seconds: int | None) -> None:
    with receiver(status(503, Retry_After=header)) as to:
        assert (await post(to.url)).retry_after_seconds == seconds


async def test_retry_after_may_be_a_date() -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    text = soon.strftime("%a, %d %b %Y %H:%M:%S GMT")
    with receiver(status(503, Retry_After=text)) as to:
        waits = (await post(to.url)).retry_after_seconds
    assert waits is not None
    assert 3000 < waits <= 3600


async def test_a_receiver_that_never_answers_is_given_up() -> None:
    release = threading.Event()

    def hang(_handler: BaseHTTPRequestHandler) -> None:
        release.wait(60)

    with receiver(hang) as to:
        assert (await post(to.url, seconds=0.2))[:2] == (None, "timeout")
        release.set()


async def test_an_endless_body_is_not_read_and_its_status_counts() -> None:
    sent = 0

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(64 * 1024))
            sent += 64 * 1024

    with receiver(endless) as to:
        assert (await post(to.url))[:2] == (200, None)
    assert sent < 32 * 1024 * 1024


async def test_a_body_that_does_not_come_holds_up_nothing() -> None:
    release = threading.Event()

    def promise(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.flush()
        release.wait(60)

    with receiver(promise) as to:
        assert (await post(to.url))[:2] == (200, None)
        release.set()


@pytest.fixture
def noise() -> Iterator[str]:
    """A server that speaks no HTTP."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                connection.sendall(b"220 smtp.example.com ESMTP\r\n")
                connection.close()
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


async def test_a_server_of_another_protocol_is_no_receiver(noise: str) -> None:
    assert (await post(noise))[:2] == (None, "broken")


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert (await post(f"http://127.0.0.1:{port}/"))[:2] == (None, "unreachable")


async def test_a_private_address_is_refused_at_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting may have changed since the webhook was created."""
    with receiver() as canary:
        url = f"https://127.0.0.1:{canary.port}/"
        assert (await post(url, private=False))[:2] == (None, "address-refused")
        assert (await post(canary.url, private=False))[:2] == (None, "address-refused")
        assert canary.received == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["93.184.215.14", "127.0.0.1"],
        ["127.0.0.1", "93.184.215.14"],
        ["0.0.0.0"],
        ["::"],
        ["::ffff:93.184.215.14"],
        ["64:ff9b:1::a9fe:a9fe"],
        ["2002:7f00:1::"],
        ["2001:0:7f00:1::"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["fe80::1%1", "2606:4700::1111"],
        ["2606:4700::1111", "::1"],
        ["2606:4700::1111", "10.0.0.1"],
        ["93.184.215.14", "93.184.215.15", "93.184.215.16", "93.184.215.17", "10.0.0.1"],
    ],
)
async def test_a_name_that_stands_for_a_private_address_is_refused(addresses: list[str]) -> None:
    backend = CheckedBackend(private=False, resolve=lambda _host, _port: addresses)
    checked = HttpSender(timeout_seconds=30, private=False, backend=backend)
    attempt = await checked.post("https://evil.example.com:8443/", HEADERS, b"{}")
    assert attempt[:2] == (None, "address-refused")


async def test_a_name_is_looked_up_once_and_the_checked_address_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebinding: the second look-up would give another address."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with receiver() as to:
        backend = CheckedBackend(private=True, resolve=rebinding)
        named = HttpSender(timeout_seconds=30, private=True, backend=backend)
        attempt = await named.post(f"http://hooks.example.com:{to.port}/x", HEADERS, b"{}")
    assert attempt[:2] == (204, None)
    assert asked == ["hooks.example.com"]
    assert to.received[0].headers["host"] == f"hooks.example.com:{to.port}"


async def test_an_unknown_name_is_unreachable() -> None:
    def unknown(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    backend = CheckedBackend(private=False, resolve=unknown)
    named = HttpSender(timeout_seconds=30, private=False, backend=backend)
    attempt = await named.post("https://none.example.com/", HEADERS, b"{}")
    assert attempt[:2] == (None, "unreachable")


async def test_the_next_address_of_a_name_is_tried() -> None:
    with receiver() as to:
        backend = CheckedBackend(private=True, resolve=lambda *_: ["127.0.0.77", "127.0.0.1"])
        named = HttpSender(timeout_seconds=30, private=True, backend=backend)
        attempt = await named.post(f"http://hooks.example.com:{to.port}/", HEADERS, b"{}")
    assert attempt[:2] == (204, None)


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as proxy, receiver() as to:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await post(to.url))[:2] == (204, None)
        assert proxy.received == []


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert, secret = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert, secret


async def test_the_certificate_is_that_of_the_name_and_not_of_the_address(tmp_path: Path) -> None:
    pair = certificate(tmp_path, "hooks.example.com")
    backend = CheckedBackend(private=True, resolve=lambda *_: ["127.0.0.1"])

    async def tried(host: str, trust: str | None, port: int) -> Attempt:
        one = HttpSender(timeout_seconds=30, private=True, backend=backend, trust=trust)
        return await one.post(f"https://{host}:{port}/", HEADERS, b"{}")

    with receiver(certificate=pair) as to:
        trusted = str(pair[0])
        assert (await tried("hooks.example.com", trusted, to.port))[:2] == (204, None)
        assert (await tried("other.example.com", trusted, to.port))[:2] == (None, "tls-failed")
        assert (await tried("hooks.example.com", None, to.port))[:2] == (None, "tls-failed")

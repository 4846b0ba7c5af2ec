"""The bus over TLS: the server's certificate is verified."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from tests.bus.ends import notice, redis_end
from tests.processes import free_port, program
from tests.support.kept import ordinary_directory, run_as_ordinary_user
from tests.support.redis import RedisServer
from tests.support.waiting import until_true


@pytest.fixture
def certificate(redis_server: RedisServer) -> Iterator[tuple[int, Path]]:
    """Let the server speak TLS as well, as `localhost`; the port, and the certificate."""
    with ordinary_directory("tls-") as directory:
        key, signed, port = directory / "key.pem", directory / "cert.pem", free_port()
        words = (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {signed}"
        ).split()
        run_as_ordinary_user([program("openssl"), *words], directory)
        answer = redis_server.command(
            f"CONFIG SET tls-cert-file {signed} tls-key-file {key} tls-ca-cert-file {signed} "
            f"tls-auth-clients no tls-port {port}"
        )
        if answer != "+OK":
            pytest.skip(f"this Redis has no TLS: {answer}")
        yield port, signed
        assert redis_server.command("CONFIG SET tls-port 0") == "+OK"


async def test_a_certificate_that_is_trusted_lets_notices_through(
    redis_server: RedisServer, certificate: tuple[int, Path]
) -> None:
    port, signed = certificate
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={signed}"
    async with redis_end(url) as one, redis_end(redis_server.url) as two:
        await one.is_up()
        await two.is_up()
        await two.watches("s")
        one.bus.publish(notice())
        await until_true(lambda: two.noticed == [notice()])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_certificate_of_somebody_else_is_refused(
    certificate: tuple[int, Path], host: str
) -> None:
    port, signed = certificate
    trusted = f"?ssl_ca_certs={signed}" if host != "localhost" else ""
    with structlog.testing.capture_logs() as entries:
        async with redis_end(f"rediss://{host}:{port}/0{trusted}") as one:
            await until_true(lambda: one.bus.stats()["bus_outages_total"] == 1)
            assert not one.bus.is_up
    assert "certificate" in entries[0]["error"].lower()

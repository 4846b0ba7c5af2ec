"""The nginx configuration of examples/, under a real nginx: TLS, HTTP/2, streams, reconnecting."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.processes import REPOSITORY, Gateway, environment, free_port, program
from tests.support.waiting import until

CONFIGURATION = REPOSITORY / "examples" / "nginx" / "nginx.conf"
DEADLINE = "60"
# Runs that hang need not be waited for.
SETTINGS = {"BAMBOO_API_KEYS": "secret", "BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.2"}


class Proxy(NamedTuple):
    """An nginx in front of a gateway."""

    url: str
    plain_url: str
    certificate: Path

    def curl(self, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask through the proxy; return the ended curl, whose stdout is the body."""
        with self.asking(path, *arguments) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    @contextmanager
    def asking(self, path: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Ask through the proxy, and read the answer as it comes."""
        command = ["curl", "-sS", "-N", "--http2", "--max-time", DEADLINE]
        command += ["--cacert", str(self.certificate), *arguments, f"{self.url}{path}"]
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Make a certificate of `localhost`; return its file, and that of its key."""
    certificate, key = directory / "tls.crt", directory / "tls.key"
    subprocess.run(
        [
            *[program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"],
            *["-keyout", str(key), "-out", str(certificate)],
            *["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@contextmanager
def proxy(gateway: Gateway, directory: Path) -> Iterator[Proxy]:
    """Run nginx with the example's configuration, on ports and with files of the test's own."""
    nginx = program("nginx")
    program("curl")
    certificate, key = self_signed(directory)
    log = directory / "nginx.log"
    port, plain_port = free_port(), free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    own_files = "".join(f"    {kind}_temp_path {directory / kind};\n" for kind in kinds)
    text = CONFIGURATION.read_text("utf-8")
    for shown, ours in {
        "127.0.0.1:8080": f"127.0.0.1:{gateway.port}",
        "listen 80;": f"listen 127.0.0.1:{plain_port};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/nginx/bamboo.crt": str(certificate),
        "/etc/nginx/bamboo.key": str(key),
        "http {": f"http {{\n    access_log off;\n{own_files}",
    }.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, ours)
    file = directory / "nginx.conf"
    file.write_text(text, "utf-8")
    own = f"daemon off; pid {directory / 'nginx.pid'}; error_log {log};"
    command = [nginx, "-c", str(file), "-p", str(directory), "-e", str(log), "-g", own]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        found = Proxy(f"https://localhost:{port}", f"http://localhost:{plain_port}", certificate)

        def answers() -> bool:
            assert process.poll() is None, log.read_text("utf-8")
            return found.curl("/health/ready").stdout != ""

        try:
            until(answers, "nginx answers")
            yield found
        finally:
            process.terminate()


def frames(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Read the frames of a stream: the id, and the event."""
    position = ""
    for line in lines:
        if line.startswith("id: "):
            position = line[4:].strip()
        elif line.startswith("data: "):
            yield position, json.loads(line[6:])


@pytest.mark.external_service
def test_nginx_streams_over_tls_and_http_2_and_clients_come_back_after_a_restart(
    tmp_path: Path,
) -> None:
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.http.headers["Authorization"] = "Bearer secret"
        key = ["-H", "Authorization: Bearer secret"]
        with proxy(gateway, tmp_path) as nginx:
            assert nginx.curl("/api/v1/sessions").stdout.count("unauthorized") > 0

            # The beginning of an answer that hangs: it arrives although nginx buffers answers.
            options = {"hold": "middle", "delay_ms": 0}
            chat = {"session_id": "s", "run_id": "r", "message": "Hi", "options": options}
            gateway.call("POST", "/chat", json=chat)
            with nginx.asking("/api/v1/stream/s?from=start", *key, "-i") as stream:
                assert stream.stdout is not None
                assert stream.stdout.readline().startswith("HTTP/2 200")
                shown = frames(iter(stream.stdout))
                position = next(last for last, event in shown if event["type"] == "token")
                assert gateway.stop() == 0
                stream.communicate()
            bad = nginx.curl("/api/v1/sessions", *key, "-o", "/dev/null", "-w", "%{http_code}")
            assert bad.stdout == "502"
            gateway.start()

            again = nginx.curl(
                "/api/v1/stream/s?until=complete&run_id=r", *key, "-H", f"Last-Event-ID: {position}"
            )
            seen = [frame for frame in frames(iter(again.stdout.splitlines())) if "seq" in frame[1]]
            seq = int(position.split("-")[1])
            after = [event for event in gateway.events("s") if event["seq"] > seq]
            assert [event for _, event in seen] == after
            assert after[-1]["type"] == "error"
            assert after[-1]["code"] == "interrupted"


@pytest.mark.external_service
def test_nginx_passes_on_what_cookies_redirects_and_ndjson_need(tmp_path: Path) -> None:
    with Gateway(tmp_path, SETTINGS) as gateway:
        gateway.http.headers["Authorization"] = "Bearer secret"
        key = ["-H", "Authorization: Bearer secret"]
        with proxy(gateway, tmp_path) as nginx:
            login = nginx.curl("/api/v1/login", *key, "-X", "POST", "-i")
            cookie = re.search(r"(?im)^set-cookie: (.*)$", login.stdout)
            assert cookie is not None, login.stdout
            assert "secure" in cookie[1].lower()

            plain = subprocess.run(
                [
                    *["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"],
                    *["--max-time", DEADLINE, f"{nginx.plain_url}/api/v1/sessions"],
                ],
                env=environment(),
                capture_output=True,
                text=True,
                check=True,
            )
            assert plain.stdout.startswith("301 https://localhost")

            # A line is in the log before the next one is sent.
            gateway.call("POST", "/sessions", json={"id": "s"})
            with subprocess.Popen(
                [
                    *["curl", "-sS", "-N", "--http2", "--max-time", DEADLINE, "-X", "POST"],
                    *["--cacert", str(nginx.certificate), *key, "-T", "-"],
                    *["-H", "Content-Type: application/x-ndjson"],
                    f"{nginx.url}/api/v1/sessions/s/events",
                ],
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as producer:
                assert producer.stdin is not None
                assert producer.stdout is not None
                for number in range(3):
                    line = json.dumps({"type": "custom", "name": "n", "value": number})
                    producer.stdin.write(line + "\n")
                    producer.stdin.flush()
                    until(
                        lambda: gateway.events("s")[-1].get("value") == number,  # noqa: B023
                        "the line is in the log",
                    )
                producer.stdin.close()
                assert json.loads(producer.stdout.read())["count"] == 3

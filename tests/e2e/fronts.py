"""Real proxies in front of a gateway, configured as docs/how-to/proxy.md says."""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.processes import REPOSITORY, Gateway, environment, free_port, program
from tests.support.waiting import until

PAGE = REPOSITORY / "docs" / "how-to" / "proxy.md"
PATH = "/a/b"
_GATEWAY = "127.0.0.1:8080"


def recipe(heading: str) -> str:
    """Return the block of code that follows a proxy's name in the section about paths."""
    section = PAGE.read_text("utf-8").split("\n## Below a path\n")[1].split("\n## ")[0]
    found = re.search(rf"^{heading}:\n\n```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def line_that_names_the_path(proxy: str) -> str:
    """Return the line of the table that makes a proxy send `X-Forwarded-Prefix`."""
    found = re.search(rf"^\| {proxy} \| `([^`]+)`", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found is not None, proxy
    return found[1]


def changed(text: str, *changes: tuple[str, str]) -> str:
    """Replace texts that each are there once."""
    for old, new in changes:
        assert text.count(old) == 1, (old, text)
        text = text.replace(old, new)
    return text


@contextmanager
def running(
    command: list[str], url: str, directory: Path, log: Path, **settings: str
) -> Iterator[None]:
    """Run a proxy until the block ends, once it answers."""

    def answers() -> bool:
        assert process.poll() is None, log.read_text("utf-8")
        try:
            return httpx.get(url, trust_env=False, verify=False, timeout=60).status_code > 0
        except httpx.TransportError:
            return False

    with (
        log.open("ab") as out,
        subprocess.Popen(
            command, cwd=directory, env=environment(**settings), stdout=out, stderr=out
        ) as process,
    ):
        try:
            until(answers, "the proxy answers")
            yield
        finally:
            process.terminate()


@contextmanager
def nginx(gateway: Gateway, directory: Path, *, strips: bool, names: bool) -> Iterator[str]:
    """Run nginx in front of a gateway; yield the address of the gateway there."""
    upstream = f"127.0.0.1:{gateway.port}"
    shown = recipe("nginx").replace("  # http://127.0.0.1:8080/ strips the path", "")
    inner = changed(shown, (f"{_GATEWAY};", f"{upstream}/;" if strips else f"{upstream};"))
    if names:
        inner = inner.replace("\n}", f"\n    {line_that_names_the_path('nginx')}\n}}")
    port = free_port()
    with nginx_serving(f"listen 127.0.0.1:{port};\n{inner}", f"http://127.0.0.1:{port}", directory):
        yield f"http://127.0.0.1:{port}{PATH}"


@contextmanager
def nginx_serving(server: str, url: str, directory: Path) -> Iterator[None]:
    """Run nginx with one `server`."""
    command, log = program("nginx"), directory / "nginx.log"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    files = "".join(f"{kind}_temp_path {directory / kind};\n" for kind in kinds)
    text = f"events {{}}\nhttp {{\naccess_log off;\n{files}server {{\n{server}\n}}\n}}\n"
    file = directory / "nginx.conf"
    file.write_text(text, "utf-8")
    own = f"daemon off; pid {directory / 'nginx.pid'}; error_log {log};"
    arguments = ["-c", str(file), "-p", str(directory), "-e", str(log), "-g", own]
    with running([command, *arguments], url, directory, log):
        yield


@contextmanager
def haproxy(gateway: Gateway, directory: Path, *, strips: bool, names: bool) -> Iterator[str]:
    """Run HAProxy in front of a gateway; yield the address of the gateway there."""
    command, log, port = program("haproxy"), directory / "haproxy.log", free_port()
    text = changed(
        recipe("HAProxy"),
        ("bind :80", f"bind 127.0.0.1:{port}"),
        (_GATEWAY, f"127.0.0.1:{gateway.port}"),
    )
    if strips:
        text = changed(text, ("# http-request replace-path", "http-request replace-path"))
    if names:
        text = changed(
            text,
            ("backend bamboo\n", f"backend bamboo\n    {line_that_names_the_path('HAProxy')}\n"),
        )
    file = directory / "haproxy.cfg"
    file.write_text(text, "utf-8")
    base = f"http://127.0.0.1:{port}{PATH}"
    with running([command, "-db", "-f", str(file)], f"{base}/health/live", directory, log):
        yield base


@contextmanager
def caddy(gateway: Gateway, directory: Path, *, strips: bool, names: bool) -> Iterator[str]:
    """Run Caddy in front of a gateway; yield the address of the gateway there."""
    command, log, port = program("caddy"), directory / "caddy.log", free_port()
    upstream = f"reverse_proxy 127.0.0.1:{gateway.port}"
    if names:
        found = re.match(r"header_up \S+ \S+", line_that_names_the_path("Caddy"))
        assert found is not None
        upstream = f"{upstream} {{\n{found[0]}\n}}"
    text = changed(
        recipe("Caddy"), (":80 {", f":{port} {{"), (f"reverse_proxy {_GATEWAY}", upstream)
    )
    if strips:
        text = changed(text, ("    handle /a/b/*", "    handle_path /a/b/*"))
    file = directory / "Caddyfile"
    file.write_text("{\n    admin off\n    auto_https off\n}\n" + text, "utf-8")
    base = f"http://127.0.0.1:{port}{PATH}"
    own = {
        "HOME": str(directory),
        "XDG_DATA_HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
    }
    arguments = ["run", "--adapter", "caddyfile", "--config", str(file)]
    with running([command, *arguments], f"{base}/health/live", directory, log, **own):
        yield base


FRONTS: dict[str, Callable[..., object]] = {"nginx": nginx, "haproxy": haproxy, "caddy": caddy}

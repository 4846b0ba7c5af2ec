"""The gateway below a path of nginx, HAProxy and Caddy, which strip it or pass it on."""

import json
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.cli.running import bamboo
from tests.e2e.fronts import FRONTS, PATH
from tests.processes import Gateway
from tests.support.clients import local_client
from tests.support.waiting import until

pytestmark = pytest.mark.external_service

KEY = {"Authorization": "Bearer secret"}
# Runs that hang need not be waited for.
SETTINGS = {"BAMBOO_API_KEYS": "secret", "BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.2"}
BY_SETTING = SETTINGS | {"BAMBOO_ROOT_PATH": PATH}
BY_HEADER = SETTINGS | {"BAMBOO_TRUSTED_PROXIES": "127.0.0.0/8,::1"}


def front(
    name: str, gateway: Gateway, directory: Path, *, strips: bool, names: bool = False
) -> AbstractContextManager[str]:
    running = FRONTS[name](gateway, directory, strips=strips, names=names)
    return cast(AbstractContextManager[str], running)


def origin_of(base: str) -> str:
    return base.removesuffix(PATH)


def frames(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the frames of a stream: the id, and the event."""
    position = ""
    for line in lines:
        if line.startswith("id: "):
            position = line[4:].strip()
        elif line.startswith("data: "):
            yield position, json.loads(line[6:])


STRIPPING = pytest.mark.parametrize("strips", [False, True], ids=["passes", "strips"])


@STRIPPING
@pytest.mark.parametrize("name", FRONTS)
def test_streams_logins_tickets_and_shares_work_below_a_path(
    tmp_path: Path, name: str, strips: bool
) -> None:
    with (
        Gateway(tmp_path, BY_SETTING) as gateway,
        front(name, gateway, tmp_path, strips=strips) as base,
        local_client(base_url=origin_of(base), timeout=60) as client,
        local_client(base_url=origin_of(base), timeout=60) as nobody,
    ):
        gateway.http.headers.update(KEY)
        check_pages(nobody, client)
        check_login(client, origin_of(base))
        check_stream(gateway, client)
        check_credentials_in_urls(client, nobody)
        check_paths(nobody, strips=strips)
        shown = bamboo("sessions", "list", url=base, BAMBOO_API_KEY="secret")
        assert "held" in shown.stdout, shown.stderr
        chat = ("chat", "Hi", "--session", "held", "--option", "delay_ms=0")
        assert bamboo(*chat, url=base, BAMBOO_API_KEY="secret").returncode == 0


def check_pages(nobody: httpx.Client, client: httpx.Client) -> None:
    """The pages and the document lead to addresses that are there."""
    front_page = nobody.get(PATH, follow_redirects=True, headers={"Accept": "text/html"})
    linked = re.findall(r'href="([^"]+)"', front_page.text)
    assert linked[:2] == [f"{PATH}/console/", f"{PATH}/docs"]
    links = nobody.get(f"{PATH}/").json()["links"]
    for link in links.values():
        assert nobody.get(link).status_code in {200, 401}, link
    document = client.get(links["openapi"], headers=KEY).json()
    assert document["servers"][0]["url"] == PATH


def check_login(client: httpx.Client, origin: str) -> None:
    """The cookie is for the path and what is below it. It stays in the client."""
    login = client.post(f"{PATH}/api/v1/login", headers=KEY)
    assert login.status_code == 204
    assert f"path={PATH};" in login.headers["set-cookie"].lower() + ";"
    assert client.get(f"{PATH}/api/v1/sessions").status_code == 200
    assert "cookie" not in client.build_request("GET", f"{PATH}X").headers
    client.headers["Origin"] = origin
    made = client.post(f"{PATH}/api/v1/sessions", json={"id": "held"})
    assert made.status_code == 201, made.text
    assert client.get(made.headers["Location"]).json()["id"] == "held"


def check_stream(gateway: Gateway, client: httpx.Client) -> None:
    """A stream arrives event by event, and goes on after its last id when the gateway was away."""
    options = {"hold": "middle", "delay_ms": 0}
    chat = {"session_id": "held", "run_id": "r", "message": "Hi", "options": options}
    turn = client.post(f"{PATH}/api/v1/chat", json=chat).json()
    url = f"{turn['stream_url']}&until=complete"
    assert url.startswith(f"{PATH}/api/v1/stream/held?")
    seen: list[int] = []
    last: dict[str, str] = {}
    with client.stream("GET", url) as stream:
        for position, event in frames(stream.iter_lines()):
            last = {"Last-Event-ID": position}
            seen += [event["seq"]] if "seq" in event else []
            if event["type"] == "token":
                break
    assert gateway.stop() == 0
    assert client.get(f"{PATH}/api/v1/sessions").status_code in {502, 503}
    gateway.start()
    until_back(client)
    with client.stream("GET", url, headers=last) as stream:
        rest = [event for _, event in frames(stream.iter_lines()) if "seq" in event]
    seen += [event["seq"] for event in rest]
    assert rest[-1]["code"] == "interrupted"
    first = int(re.findall(r"after=\d+-(\d+)", url)[0])
    assert seen == list(range(first + 1, first + 1 + len(seen)))
    assert seen[-1] == gateway.events("held")[-1]["seq"]


def until_back(client: httpx.Client) -> None:
    """Wait until the proxy has noticed that the gateway is back."""
    until(lambda: client.get(f"{PATH}/health/ready").status_code == 200, "the proxy finds it")


def check_credentials_in_urls(client: httpx.Client, nobody: httpx.Client) -> None:
    """Tickets and links open the addresses that come with them, without another credential."""
    ticket = client.post(f"{PATH}/api/v1/sessions/held/ticket").json()
    with nobody.stream("GET", ticket["stream_url"]) as stream:
        assert next(frames(stream.iter_lines()))[1]["type"] == "open"
    share = client.post(f"{PATH}/api/v1/sessions/held/shares", json={"link": True})
    assert share.headers["Location"].startswith(f"{PATH}/api/v1/sessions/held/shares/")
    token = {"share": share.json()["token"]}
    page = nobody.get(f"{PATH}/api/v1/sessions/held/messages", params=token).json()
    assert page["stream_url"].startswith(f"{PATH}/api/v1/stream/held?")
    with nobody.stream("GET", page["stream_url"]) as stream:
        assert next(frames(stream.iter_lines()))[1]["type"] == "open"


def check_paths(nobody: httpx.Client, *, strips: bool) -> None:
    """What is not below the path does not reach the gateway, and one path is taken off."""
    live = nobody.get(f"{PATH}/health/live").text
    assert nobody.get(f"{PATH}X/health/live").text != live  # Caddy answers 200 with nothing
    assert nobody.get(f"{PATH}/api/v1/sessions").status_code == 401
    # As the page says of proxies that strip.
    assert nobody.get(f"{PATH}{PATH}/health/live").status_code == (200 if strips else 401)
    assert nobody.get(f"{PATH}{PATH}/api/v1/sessions").status_code == 401
    assert nobody.get(f"{PATH}{PATH}{PATH}/health/live").status_code == 401


@pytest.mark.parametrize("name", FRONTS)
def test_a_proxy_names_the_path_whatever_its_client_says(tmp_path: Path, name: str) -> None:
    with (
        Gateway(tmp_path, BY_HEADER) as gateway,
        front(name, gateway, tmp_path, strips=True, names=True) as base,
        local_client(base_url=origin_of(base), timeout=60) as client,
    ):
        for said in ({}, {"X-Forwarded-Prefix": "/evil"}):
            about = client.get(f"{PATH}/", headers=said)
            assert about.json()["links"]["api"] == f"{PATH}/api/v1"
        made = client.post(f"{PATH}/api/v1/sessions", json={"id": "s"}, headers=KEY)
        assert made.headers["Location"] == f"{PATH}/api/v1/sessions/s"
        # The header counts for its own requests only.
        assert gateway.http.get("/sessions/s", headers=KEY).json()["stream_url"].startswith("/api")

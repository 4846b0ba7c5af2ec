"""HAProxy in front of the replicas, with the configuration that the repository ships."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.e2e.fronts import changed, running
from tests.processes import REPOSITORY, free_port, program
from tests.support.waiting import until

CONFIGURATION = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"
_TEMPLATE = "server-template replica 3 replica:8080 resolvers docker init-addr none"


@contextmanager
def haproxy(directory: Path, ports: Iterable[int]) -> Iterator[str]:
    """Run it in front of gateways until the block ends, once it has found one of them ready.

    Args:
        directory: For its configuration and its log.
        ports: Of the gateways, on the loopback address.

    Yields:
        Its address.
    """
    port = free_port()
    # Without Docker there is no name that stands for all replicas.
    servers = "\n    ".join(
        f"server replica{number} 127.0.0.1:{one}" for number, one in enumerate(ports)
    )
    text = changed(
        CONFIGURATION.read_text("utf-8"),
        ("bind :8080", f"bind 127.0.0.1:{port}"),
        (_TEMPLATE, servers),
    ).partition("\nresolvers docker")[0]
    file = directory / "haproxy.cfg"
    file.write_text(text + "\n", "utf-8")
    url = f"http://127.0.0.1:{port}"
    command = [program("haproxy"), "-db", "-f", str(file)]

    def finds_one() -> bool:
        # It answers 503 by itself while it finds none.
        return httpx.get(f"{url}/health/ready", trust_env=False, timeout=60).status_code == 200

    with running(command, f"{url}/health/ready", directory, directory / "haproxy.log"):
        until(finds_one, "the balancer finds a replica that is ready")
        yield url

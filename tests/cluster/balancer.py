"""HAProxy in front of the replicas, with the configuration that the repository ships."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.deployment import Deployment
from tests.e2e.fronts import changed, running
from tests.processes import REPOSITORY, free_port, program

CONFIGURATION = REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg"
_TEMPLATE = "server-template replica 3 replica:8080 resolvers docker init-addr none"


@contextmanager
def haproxy(deployment: Deployment) -> Iterator[str]:
    """Run it until the block ends; its address is yielded."""
    port, directory = free_port(), deployment.directory
    # Without Docker there is no name that stands for all replicas.
    servers = "\n    ".join(
        f"server replica{one.number} 127.0.0.1:{one.front.port}" for one in deployment.replicas
    )
    text = changed(
        CONFIGURATION.read_text("utf-8"),
        # A test may not have that many files.
        ("maxconn 40000", "maxconn 2000"),
        ("bind :8080", f"bind 127.0.0.1:{port}"),
        (_TEMPLATE, servers),
    ).partition("\nresolvers docker")[0]
    file = directory / "haproxy.cfg"
    file.write_text(text + "\n", "utf-8")
    url = f"http://127.0.0.1:{port}"
    command = [program("haproxy"), "-db", "-f", str(file)]
    with running(command, f"{url}/health/ready", directory, directory / "haproxy.log"):
        yield url

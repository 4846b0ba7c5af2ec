"""Runs one server process of the benchmarks: `python -m benchmarks.launch WHAT JSON`.

WHAT is `gateway`, or the name of a module in `peers/` with a `serve(config, announce)`. The process
is pinned to the core that the JSON names, dies with its parent, and says on its standard output
where it listens, as one JSON line.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Becomes the server."""
    what, config = sys.argv[1], json.loads(sys.argv[2])
    isolate(config.get("core"))
    if what == "gateway":
        return _gateway(config)
    importlib.import_module(f"benchmarks.peers.{what}").serve(config, announce)
    return 0


def isolate(core: int | None) -> None:
    """Pins this process to a core, and makes it end with its parent."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def announce(port: int, control: int) -> None:
    """Say where the server and its control socket are."""
    sys.stdout.write(json.dumps({"port": port, "control": control}) + "\n")
    sys.stdout.flush()


def _gateway(config: dict[str, Any]) -> int:
    """Run the gateway as `bamboo serve` does, with a control socket beside it."""
    gc.disable()
    from bamboo_gateway.server import server
    from bamboo_gateway.settings import load_settings
    from benchmarks import producer

    started = server._started

    def on_started(*what: Any, **_: Any) -> None:
        # Other versions give it other arguments, the port at the end.
        started(*what)
        announce(what[-1], producer.listen())

    server._started = on_started
    flags = {"port": 0, "log_level": "warning", "agents": AGENTS, **config["settings"]}
    return server.serve(load_settings(**flags))


AGENTS = {"default": "python:benchmarks.producer:agent?allow=*"}

if __name__ == "__main__":
    sys.exit(main())

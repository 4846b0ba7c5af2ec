"""LiteLLM's proxy in front of the model server, run by its own command: no database, no cache."""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def serve(config: dict[str, Any], announce: Callable[[int, int], None]) -> None:
    """Become the proxy. It listens some time after the port is announced."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    upstream = f"http://127.0.0.1:{config['upstream']}/v1"
    relay = {"model": "openai/scripted", "api_key": "none", "api_base": upstream}
    settings = {
        "model_list": [{"model_name": "scripted", "litellm_params": relay}],
        # It wants a key or this; a key would be checked at each request.
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},
        "litellm_settings": {"telemetry": False, "num_retries": 0},
    }
    folder = Path(tempfile.mkdtemp(prefix="litellm-", dir=config["directory"]))
    (folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*", "HOME": str(folder)}
    quiet = {"LITELLM_LOG": "ERROR"}
    announce(port, 0)
    command = [
        *(sys.executable, str(Path(sys.executable).with_name("litellm"))),
        *("--config", str(folder / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)),
    ]
    os.dup2(2, 1)  # nobody reads what it says
    os.execve(sys.executable, command, {**os.environ, **offline, **quiet})

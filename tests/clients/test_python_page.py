"""The Python blocks of docs/how-to/python-client.md run, from the first to the last."""

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from bamboo_gateway_client import Gateway
from tests.processes import REPOSITORY
from tests.processes import Gateway as GatewayProcess

PAGE = REPOSITORY / "docs" / "how-to" / "python-client.md"
README = REPOSITORY / "README.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(block: str, names: dict[str, Any]) -> None:
    """Run a block as a reader would in a notebook, where `await` is allowed."""
    code = compile(block, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


def test_the_blocks_of_the_page_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Files that the page shows are run in tests/examples.
    blocks = [
        block
        for page in (PAGE, README)
        for block in _BLOCK.findall(page.read_text("utf-8"))
        if "bamboo_gateway_client" in block or "session." in block
        if "os.environ" not in block
    ]
    assert len(blocks) >= 6
    with GatewayProcess(tmp_path) as process, Gateway(process.url) as client:
        session = client.sessions.create()
        session.chat("Hello!", options={"delay_ms": 0}).wait()
        names: dict[str, Any] = {"gateway": client, "session": session, "__name__": "page"}
        for block in blocks:
            # Each begins as the page has left it, whatever the ones before have made.
            here = block.replace("http://127.0.0.1:8080", process.url)
            run(here, dict(names))
    said = capsys.readouterr().out
    assert "I counted 1 word" in said
    assert "to go on later: " in said
    assert "session-not-found" in said

"""What is made of the OpenAPI document and of the asynchronous client is what stands there."""

import ast
import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

from tests.processes import REPOSITORY

TOOLS = REPOSITORY / "clients" / "python" / "tools"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_types_follow_the_openapi_document() -> None:
    path, source = tool("types_from_openapi").made()
    assert path.read_text("utf-8") == source, "run `make clients`"


def test_the_synchronous_client_follows_the_asynchronous_one() -> None:
    made = list(tool("sync_from_async").made())
    assert len(made) > 5
    for path, source in made:
        assert path.read_text("utf-8") == source, f"{path.name}: run `make clients`"
        assert not [
            node
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await)
        ]


def test_the_client_alone_is_a_distribution(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=REPOSITORY / "clients" / "python", check=True, timeout=100)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        needs = [
            line.partition(": ")[2]
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist")
        ]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"bamboo_gateway_client"}
    assert "bamboo_gateway_client/py.typed" in names
    assert sorted(need.partition(">")[0] for need in needs) == ["anyio", "httpx"]

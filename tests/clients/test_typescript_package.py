"""The npm package of the TypeScript client: its types, what it consists of, its own tests."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.typescript import PACKAGE, SECONDS, built, npm_program, run
from tests.processes import environment, program

pytestmark = pytest.mark.external_service

CORE_BYTES_MAX = 10 * 1024
HOOK_BYTES_MAX = 512

# A program over the whole union of events, and mistakes that the compiler has to refuse in it.
USE = """
import { BambooClient, type EventOf, type StreamEvent } from "@bamboo-gateway/client";
import { useSession } from "@bamboo-gateway/client/react";

function shown(event: StreamEvent): string {
  switch (event.type) {
    case "token":
      return event.content;
    case "tool_complete":
      return String(event.result.success);
    case "goodbye":
      return event.reason;
    default:
      return event.type;
  }
}

export async function read(client: BambooClient): Promise<string[]> {
  const run = await client.session("s").chat("Hello", { on_busy: "reject" });
  const found: string[] = [];
  for await (const event of client.session("s").streamRun(run)) found.push(shown(event));
  for await (const session of client.allSessions({ state: "active" })) found.push(session.id);
  return found;
}

export function Title(): string | null {
  const { title, messages, status } = useSession(new BambooClient(), "s");
  return status === "idle" ? title : `${messages.length}`;
}

export const said: EventOf<"token">["content"] = "";
"""
MISTAKES = {
    'case "token"': 'case "tokens"',
    "event.result.success": "event.result.succes",
    'on_busy: "reject"': 'on_busy: "rejekt"',
    'state: "active"': "sate: 1",
    'status === "idle"': 'status === "idel"',
}


def test_the_generated_types_are_those_of_the_openapi_document() -> None:
    npm_program("openapi-typescript")
    made = run([program("node"), "scripts/types.mjs", "--print"])
    committed = (PACKAGE / "src" / "openapi.ts").read_text("utf-8")
    assert made == committed, "run `npm run types` in clients/typescript"


def test_its_own_tests_pass() -> None:
    built()
    tests = sorted((PACKAGE / "tests").glob("*.test.mjs"))
    assert len(tests) >= 3
    run([program("node"), "--test", *tests])


def test_the_package_holds_what_it_needs_and_nothing_else(tmp_path: Path) -> None:
    built()
    packed = run(
        [program("npm"), "pack", "--json", "--ignore-scripts", "--offline", "--pack-destination",
         tmp_path],
    )  # fmt: skip
    listed = json.loads(packed)
    (about,) = listed.values() if isinstance(listed, dict) else listed
    names = {entry["path"] for entry in about["files"]}
    modules = {path.stem for path in (PACKAGE / "src").glob("*.ts")}
    made = {f"dist/{name}{end}" for name in modules for end in (".js", ".d.ts")}
    assert names == made | {"package.json", "README.md", "LICENSE"}
    # Unpacked it is usable: every path that it exports is there.
    shutil.unpack_archive(tmp_path / about["filename"], tmp_path, "gztar")
    manifest = json.loads((tmp_path / "package" / "package.json").read_text("utf-8"))
    assert "dependencies" not in manifest
    for entry in manifest["exports"].values():
        for path in entry.values() if isinstance(entry, dict) else [entry]:
            assert (tmp_path / "package" / path).is_file()
    imported = (
        "import { BambooClient } from '@bamboo-gateway/client'; new BambooClient({baseUrl: 'x:'})"
    )
    place = tmp_path / "user" / "node_modules" / "@bamboo-gateway"
    place.mkdir(parents=True)
    (tmp_path / "package").rename(place / "client")
    run([program("node"), "--input-type=module", "--eval", imported], tmp_path / "user")


def test_the_locks_of_npm_name_no_host() -> None:
    text = (PACKAGE / "package-lock.json").read_text("utf-8")
    assert "resolved" not in text
    manifest = json.loads((PACKAGE / "package.json").read_text("utf-8"))
    pins = manifest["devDependencies"].values()
    assert all(pin[0].isdigit() for pin in pins)


@pytest.mark.parametrize(("entry", "limit"), [("index", CORE_BYTES_MAX), ("react", HOOK_BYTES_MAX)])
def test_it_is_small(entry: str, limit: int) -> None:
    built()
    bundled = run(
        [npm_program("esbuild"), f"dist/{entry}.js", "--bundle", "--minify", "--format=esm",
         "--external:react", "--target=es2022"],
    )  # fmt: skip
    size = len(gzip.compress(bundled.encode(), 9))
    assert size <= limit, f"{size} bytes, minified and compressed"


def test_the_compiler_refuses_what_the_api_does_not_have(tmp_path: Path) -> None:
    built()
    options = json.loads((PACKAGE / "tsconfig.json").read_text("utf-8"))
    modules = tmp_path / "node_modules"
    (modules / "@bamboo-gateway").mkdir(parents=True)
    (modules / "@bamboo-gateway" / "client").symlink_to(PACKAGE)
    (modules / "@types").symlink_to(PACKAGE / "node_modules" / "@types")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    sources = {"right.ts": USE}
    for number, (right, wrong) in enumerate(MISTAKES.items()):
        assert right in USE
        sources[f"wrong-{number}.ts"] = USE.replace(right, wrong)
    for name, text in sources.items():
        (tmp_path / name).write_text(text, "utf-8")
    compiler = options["compilerOptions"] | {"noEmit": True, "rootDir": "."}
    (tmp_path / "tsconfig.json").write_text(
        json.dumps({"compilerOptions": compiler, "files": list(sources)})
    )
    done = subprocess.run(
        [program("node"), str(npm_program("tsc")), "--project", str(tmp_path)],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    lines = done.stdout.splitlines()
    refused = {Path(line.partition("(")[0]).name for line in lines if "error TS" in line}
    assert refused == {f"wrong-{number}.ts" for number in range(len(MISTAKES))}, done.stdout

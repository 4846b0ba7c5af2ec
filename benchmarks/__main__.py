"""`python -m benchmarks`: runs the benchmarks, prints a table, writes a JSON file."""

import argparse
import importlib
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.harness import Bench, Row

BENCHMARKS = {
    "chat": "chats through a model server, beside relays written by hand",
    "fan_out": "one session, many readers",
    "many": "many sessions, one reader each",
    "stalled": "many readers and a writer beside one that is stuck",
    "ingest": "streamed events of external runs",
    "append": "durable append, through HTTP and below",
    "stores": "the store beside a bare insert, reads as a log grows",
    "connections": "memory, tasks and opening of idle streams",
    "history": "replay, last messages, lists and cold start as data grow",
    "lists": "a page of sessions by every filter and order",
    "start": "bamboo serve until its first answer, bamboo --help",
    "search": "searches of many messages, on SQLite and PostgreSQL",
    "rest": "small calls beside bare FastAPI",
    "replicas": "several gateways over one PostgreSQL",
    "wires": "a frame of each protocol beside the native stream, and a fan-out",
}


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names; return the exit code."""
    options = _parser().parse_args(arguments)
    names = list(BENCHMARKS) if options.only is None else options.only.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.stderr.write(f"error: no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}\n")
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # as wide as the tables are, in a file
    found: dict[str, list[Row]] = {}
    titles = {}
    with Bench(
        options.size,
        storage=options.storage,
        directory=options.directory,
        gateway_python=options.gateway_python,
        only_cases=options.case,
        say=console.print,
    ) as bench:
        if bench.server_core is None:
            console.print("Only one core: servers and the load client share it.")
        if not bench.client_is_compiled:
            console.print("No C compiler: the load client is the Python fallback, and slow.")
        for name in names:
            console.print(f"{name}: {BENCHMARKS[name]} …")
            module = importlib.import_module(f"benchmarks.{name}")
            titles[name] = module.TITLE
            found[name] = module.run(bench)
            # After each, so that an interrupted run has what it came to.
            about = {"size": options.size, "storage": options.storage}
            report.save(options.json, found, {**about, "compiled": bench.client_is_compiled})
    console.print()
    for name, rows in found.items():
        report.show(console, f"{name} · {titles[name]}", rows)
    goals = [row.is_met for rows in found.values() for row in rows if row.is_met is not None]
    console.print(f"{sum(goals)} of {len(goals)} goals reached.")
    console.print(f"Written to {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = "; ".join(f"{name}: {what}" for name, what in BENCHMARKS.items())
    parser.add_argument("--only", metavar="A,B", help=f"some of them. {names}")
    parser.add_argument(
        "--case",
        metavar="TEXT",
        default="",
        help="only cases whose name holds this, in `chat`, `search` and `replicas`",
    )
    parser.add_argument(
        "--gateway-python",
        metavar="FILE",
        default=sys.executable,
        help="the interpreter that runs the gateway: another one's, to measure another version",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=Path("build/benchmarks.json"),
        help="where the numbers go, as JSON (%(default)s)",
    )
    parser.add_argument("--storage", default="jsonl:", help="the gateway's storage_url (jsonl:)")
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="where data are made, and removed (TMPDIR)"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--quick",
        dest="size",
        action="store_const",
        const="quick",
        default="full",
        help="smaller sizes, fewer rounds: minutes instead of half an hour",
    )
    sizes.add_argument(
        "--smoke",
        dest="size",
        action="store_const",
        const="smoke",
        help="the smallest sizes, one round: shows that everything runs, measures nothing",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

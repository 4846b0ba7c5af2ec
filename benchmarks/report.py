"""The table at the end, and the JSON file."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import Row, machine


def show(console: Console, title: str, rows: list[Row]) -> None:
    """Prints one benchmark's table."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("case")
    # The numbers are never cut; the case's name wraps instead.
    for name in ("unit", "gateway", "peer", "bare limit", "ratio", "goal"):
        table.add_column(name, justify="left" if name == "unit" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row.case,
            row.unit,
            _number(row.gateway),
            _number(row.peer),
            _number(row.limit),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            _goal(row),
        )
    console.print(table)
    of = sorted({row.of for row in rows if row.of})
    if of:
        console.print(f"  [dim]ratio: {'; '.join(of)}[/]")
    for row in rows:
        for note in row.notes:
            console.print(f"  [dim]{row.case}: {note}[/]", highlight=False)
    console.print()


def save(path: Path, found: dict[str, list[Row]], about: dict[str, Any]) -> None:
    """Write everything for programs."""
    results = {name: [row.to_json() for row in rows] for name, rows in found.items()}
    document = {"machine": machine(), **about, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    what = f" {row.unit}" if row.goal_is_absolute else ""
    mark = {True: "[green]yes[/]", False: "[red]no[/]", None: "?"}[row.is_met]
    return f"{row.goal}{what} {mark}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"

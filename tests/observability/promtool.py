"""Evaluates the alert rules with Prometheus's own tool over series that a test gives."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.processes import REPOSITORY, program

RULES = REPOSITORY / "examples" / "monitoring" / "alerts.yml"
Values = Mapping[str, str]
"""Series to their values, one a minute, as promtool writes them: `0x5 1x5` is six 0, six 1."""


def alerts() -> list[dict[str, Any]]:
    """Return the rules of the file."""
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def promtool(*arguments: str | Path) -> None:
    """Run promtool to its good end; a machine without it ends the test."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_firing(
    directory: Path, cases: list[tuple[str, Values, str, set[str]]], *, others_too: bool = False
) -> None:
    """Fail unless each case has just the alerts it should.

    Args:
        directory: Where files may be written.
        cases: Each a name, its series, when to look, and which alerts are to fire then.
        others_too: Whether alerts that no case names are held to be silent, too.
    """
    named = {alert for *_, firing in cases for alert in firing}
    looked_at = {rule["alert"] for rule in alerts()} if others_too else named
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": key, "values": text} for key, text in series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) > bool 0 '
                    "or vector(0)",
                    "eval_time": at,
                    "exp_samples": [{"labels": "{}", "value": int(alert in firing)}],
                }
                for alert in sorted(looked_at)
            ],
        }
        for name, series, at, firing in cases
    ]
    file = directory / "alerts_test.yml"
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    file.write_text(yaml.safe_dump(document), "utf-8")
    promtool("test", "rules", file)

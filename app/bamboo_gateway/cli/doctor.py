"""`bamboo doctor`: check and repair a store while no gateway runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer

from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    one_line,
    print_json,
    stderr,
    stdout,
    styled,
)


class _Finding(Protocol):
    """One finding of `bamboo_gateway.storage.factory.check_store`."""

    @property
    def severity(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def repaired(self) -> bool: ...
    @property
    def is_open(self) -> bool: ...


def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what is found.")] = False,
    new_epochs: Annotated[
        bool,
        typer.Option(
            "--new-epochs",
            help="After restoring a backup: every log gets a new epoch, so that clients reload and "
            "never see other content under a position they know. Repairs too.",
        ),
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where sessions are kept.", metavar="DIR")
    ] = None,
    storage_url: Annotated[
        str | None, typer.Option(help="The store, as the setting of that name.", metavar="URL")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", metavar="FILE")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a finding.")] = False,
) -> None:
    """Check all that a store holds while no gateway runs.

    For files: every checksum, snapshot and catalog entry. For databases: every session's events
    against its head, marks and counts; for SQLite also every page. PostgreSQL's pages and indexes
    are for its own pg_amcheck.

    Exit codes: 0 nothing is wrong, or everything was repaired; 1 something is wrong;
    2 the check could not run. What was put into quarantine earlier counts as no fault.
    """
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.errors import BambooError
    from bamboo_gateway.observability.logs import log_as_a_library
    from bamboo_gateway.settings import SettingsError, load_settings
    from bamboo_gateway.storage.factory import check_store

    # Stdout is for the findings.
    log_as_a_library()
    try:
        settings = load_settings(config, data_dir=data_dir, storage_url=storage_url, bus_url="")
        with _progress() as advance:
            findings = check_store(
                settings, SystemClock(), repair=repair, new_epochs=new_epochs, progress=advance
            )
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except BambooError as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error
    for finding in findings:
        if json:
            print_json(_shape(finding))
        else:
            _print(finding)
    if not json:
        _conclude(findings)
    if any(finding.is_open for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("sessions", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("sessions", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(finding: _Finding) -> None:
    style = {"fail": "red", "warn": "yellow"}.get(finding.severity, "dim")
    line = styled(f"{finding.severity}  ", style) + styled(one_line(finding.subject), "bold")
    done = "done" if finding.repaired else "to do"
    stdout().print(
        line, styled(f"{one_line(finding.problem)}; {done}: {finding.action}"), soft_wrap=True
    )


def _conclude(findings: Sequence[_Finding]) -> None:
    if not findings:
        stdout().print("Everything is in order.")
        return
    failures = sum(finding.severity == "fail" for finding in findings)
    summary = f"{len(findings)} findings, {failures} of them damage."
    if any(finding.is_open for finding in findings):
        summary += " `bamboo doctor --repair` repairs what can be repaired."
    else:
        summary += " Nothing is wrong any more."
    stdout().print(summary)


def _shape(finding: _Finding) -> dict[str, object]:
    names = ("severity", "subject", "problem", "action", "repaired")
    return {name: getattr(finding, name) for name in names}

"""The `bamboo` command line.

Most commands speak HTTP to a gateway (`--url`, `BAMBOO_URL`). The exceptions are `serve` and
`doctor`, which own the data directory; `openapi`, which needs only the code; `keys`, which owns the
keys file; and `new-agent`, which only writes a file.

A command imports heavy libraries inside its function, so that `--help` does not wait for them. Exit
codes: 0 done, 1 refused or failed (for `doctor`: it found something), 2 wrong usage or settings,
3 the gateway cannot be reached, 130 interrupted.
"""

import sys
from typing import Annotated

import typer

from bamboo_gateway import __version__
from bamboo_gateway.cli import (
    chat,
    doctor,
    documents,
    inspection,
    keys,
    lifecycle,
    new_agent,
    openapi,
    serve,
    sessions,
    share,
    tail,
)
from bamboo_gateway.cli.output import CommandError, complain

program = typer.Typer(
    name="bamboo",
    help="Durable sessions and resumable event streams for AI agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
program.command("serve")(serve.serve)
program.command("chat")(chat.chat)
program.command("tail")(tail.tail)
program.add_typer(sessions.commands, name="sessions")
program.command("archive")(lifecycle.archive)
program.command("restore")(lifecycle.restore)
program.command("export")(documents.export)
program.command("import")(documents.import_)
program.command("fork")(lifecycle.fork)
program.command("merge")(lifecycle.merge)
program.add_typer(share.commands, name="share")
program.command("tree")(inspection.tree)
program.command("resume")(inspection.resume)
program.command("stats")(inspection.stats)
program.command("report")(inspection.report)
program.command("extensions")(inspection.extensions)
program.command("cleanup")(lifecycle.cleanup)
program.command("diagnose")(inspection.diagnose)
program.add_typer(keys.commands, name="keys")
program.command("doctor")(doctor.doctor)
program.command("openapi")(openapi.openapi)
program.command("new-agent")(new_agent.new_agent)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bamboo {__version__}")
        raise typer.Exit


@program.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Durable sessions and resumable event streams for AI agents."""


def main() -> None:
    """Run the program; print each expected failure as one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not end a conversation.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        program()
    except CommandError as failure:
        complain(failure)
        sys.exit(failure.exit_code)

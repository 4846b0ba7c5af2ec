"""The `bamboo` command line.

Most commands speak HTTP to a gateway (`--url`, `BAMBOO_URL`). The exceptions are `serve`, `doctor`
and `migrate`, which own the data, and `restore` of a backup; `backup`, which reads it; `openapi`,
which needs only the code; `config`, which looks at the settings; `keys`, which owns the keys file;
and `new-agent`, which only writes a file.

A run imports the module of its command alone, and a command imports heavy libraries inside its
function, so that nobody waits for what others need.

Exit codes: 0 done, 1 refused or failed (for `doctor`: it found something), 2 wrong usage or
settings, 3 the gateway cannot be reached, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Final

import typer

from bamboo_gateway import __version__
from bamboo_gateway.cli.output import CommandError, complain

COMMANDS: Final = {
    "serve": ("serve", "serve"),
    "chat": ("chat", "chat"),
    "regenerate": ("branches", "regenerate"),
    "branches": ("branches", "commands"),
    "tail": ("tail", "tail"),
    "changes": ("changes", "changes"),
    "search": ("search", "search"),
    "archive": ("lifecycle", "archive"),
    "restore": ("backup", "restore"),
    "export": ("documents", "export"),
    "import": ("documents", "import_"),
    "fork": ("lifecycle", "fork"),
    "merge": ("lifecycle", "merge"),
    "tree": ("inspection", "tree"),
    "resume": ("inspection", "resume"),
    "stats": ("inspection", "stats"),
    "report": ("inspection", "report"),
    "extensions": ("inspection", "extensions"),
    "cleanup": ("lifecycle", "cleanup"),
    "diagnose": ("inspection", "diagnose"),
    "doctor": ("doctor", "doctor"),
    "config": ("config", "commands"),
    "migrate": ("migrate", "commands"),
    "backup": ("backup", "backup"),
    "openapi": ("openapi", "openapi"),
    "new-agent": ("new_agent", "new_agent"),
    "sessions": ("sessions", "commands"),
    "files": ("files", "commands"),
    "agents": ("agents", "commands"),
    "inputs": ("inputs", "commands"),
    "share": ("share", "commands"),
    "webhooks": ("webhooks", "commands"),
    "keys": ("keys", "commands"),
    "users": ("users", "commands"),
}
"""The module of each command in this package, and the command's name in it."""


def make_program(names: Sequence[str] = tuple(COMMANDS)) -> typer.Typer:
    """Make the program with these commands; it imports their modules."""
    program = typer.Typer(
        name="bamboo",
        help="Durable sessions and resumable event streams for AI agents.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    program.callback()(_all_commands)
    for name in names:
        module, attribute = COMMANDS[name]
        command = getattr(import_module(f"{__name__}.{module}"), attribute)
        if isinstance(command, typer.Typer):
            program.add_typer(command, name=name)
        else:
            program.command(name)(command)
    return program


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bamboo {__version__}")
        raise typer.Exit


def _all_commands(
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
    # What typer makes of one command's options takes a millisecond, and its imports more: a start
    # of the gateway does not wait for those of the other commands.
    named = [name for name in sys.argv[1:2] if name in COMMANDS]
    try:
        make_program(named or tuple(COMMANDS))()
    except CommandError as failure:
        complain(failure)
        sys.exit(failure.exit_code)

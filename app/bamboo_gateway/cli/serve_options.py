"""The flags of `bamboo serve`, which the commands that look at its settings take too."""

from pathlib import Path
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode

HostOption = Annotated[
    str | None, typer.Option("--host", help="Address to listen on.", metavar="HOST")
]
PortOption = Annotated[
    int | None,
    typer.Option("--port", help="Port to listen on; 0 takes a free one.", metavar="PORT"),
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where sessions are kept.", metavar="DIR")
]
AgentOption = Annotated[
    list[str] | None,
    typer.Option(
        "--agent",
        help="An agent and its URL: demo:, openai:MODEL?base_url=… Repeatable.",
        metavar="NAME=URL",
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")
]
DurabilityOption = Annotated[
    str | None, typer.Option("--durability", help="`fsync` or `os`.", metavar="MODE")
]
StorageUrlOption = Annotated[
    str | None,
    typer.Option(
        "--storage-url",
        help="`jsonl:`, `sqlite:`, `postgresql://…` or `memory:`.",
        metavar="URL",
    ),
]
InsecureOption = Annotated[
    bool | None,
    typer.Option("--insecure", help="Serve a non-loopback address without API keys."),
]
LogFormatOption = Annotated[
    str | None, typer.Option("--log-format", help="`console` or `json`.", metavar="FORMAT")
]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", help="`debug`, `info`, `warning` or `error`.", metavar="LEVEL"),
]

ReloadOption = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="For those who write agents: start again when their code or the settings change.",
    ),
]


def read_agents(pairs: list[str] | None) -> dict[str, str] | None:
    """Return the setting `agents` that the flags `--agent NAME=URL` give.

    Raises:
        CommandError: A flag is not of that form.
    """
    if not pairs:
        return None
    agents: dict[str, str] = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not (name and equals and url):
            raise CommandError(f"--agent {pair}: write NAME=URL", ExitCode.USAGE)
        agents[name] = url
    return agents

"""`bamboo serve`: run the gateway."""

import gc
from pathlib import Path
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where sessions are kept.", metavar="DIR")
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            help="An agent and its URL: demo:, openai:MODEL?base_url=… Repeatable.",
            metavar="NAME=URL",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", metavar="FILE")
    ] = None,
    durability: Annotated[str | None, typer.Option(help="`fsync` or `os`.", metavar="MODE")] = None,
    storage_url: Annotated[
        str | None,
        typer.Option(help="`jsonl:`, `sqlite:`, `postgresql://…` or `memory:`.", metavar="URL"),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Serve a non-loopback address without API keys."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="`console` or `json`.", metavar="FORMAT")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="`debug`, `info`, `warning` or `error`.", metavar="LEVEL")
    ] = None,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Flags win over BAMBOO_… variables, those over the file of --config. Every setting has a
    variable; the documentation lists them (docs/reference/settings.md).
    """
    # Objects made during the start stay alive. Collecting garbage among them again and again would
    # take a quarter of the time of the imports below, and of loading 100,000 sessions.
    gc.disable()
    from bamboo_gateway.server.server import serve as run_server
    from bamboo_gateway.settings import SettingsError, load_settings

    try:
        settings = load_settings(
            config,
            host=host,
            port=port,
            data_dir=data_dir,
            agents=_agents(agent),
            durability=durability,
            storage_url=storage_url,
            insecure=insecure,
            log_format=log_format,
            log_level=log_level,
        )
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    raise typer.Exit(run_server(settings))


def _agents(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    agents: dict[str, str] = {}
    for pair in pairs:
        name, equals, url = pair.partition("=")
        if not (name and equals and url):
            raise CommandError(f"--agent {pair}: write NAME=URL", ExitCode.USAGE)
        agents[name] = url
    return agents

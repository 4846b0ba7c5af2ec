"""`bamboo serve`: run the gateway."""

import gc

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode
from bamboo_gateway.cli.serve_options import (
    AgentOption,
    ConfigOption,
    DataDirOption,
    DurabilityOption,
    HostOption,
    InsecureOption,
    LogFormatOption,
    LogLevelOption,
    PortOption,
    StorageUrlOption,
    read_agents,
)


def serve(
    host: HostOption = None,
    port: PortOption = None,
    data_dir: DataDirOption = None,
    agent: AgentOption = None,
    config: ConfigOption = None,
    durability: DurabilityOption = None,
    storage_url: StorageUrlOption = None,
    insecure: InsecureOption = None,
    log_format: LogFormatOption = None,
    log_level: LogLevelOption = None,
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
            agents=read_agents(agent),
            durability=durability,
            storage_url=storage_url,
            insecure=insecure,
            log_format=log_format,
            log_level=log_level,
        )
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    raise typer.Exit(run_server(settings))

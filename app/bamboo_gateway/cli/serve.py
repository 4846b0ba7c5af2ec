"""`bamboo serve`: run the gateway."""

import gc
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    ReloadOption,
    StorageUrlOption,
    read_agents,
)

if TYPE_CHECKING:
    from bamboo_gateway.settings import Settings


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
    reload: ReloadOption = False,
) -> None:
    """Run the gateway until SIGTERM or Ctrl-C.

    Flags win over BAMBOO_… variables, those over the file of --config. Every setting has a
    variable; the documentation lists them (docs/reference/settings.md).
    """
    flags = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "agents": read_agents(agent),
        "durability": durability,
        "storage_url": storage_url,
        "insecure": insecure,
        "log_format": log_format,
        "log_level": log_level,
    }
    if reload:
        from bamboo_gateway.cli.reloading import Reloader, check_reload

        check_reload(_settings(config, flags), config)
        reloader = Reloader(partial(_settings, config, flags), partial(_run, config, flags), config)
        raise typer.Exit(reloader.serve())
    raise typer.Exit(_run(config, flags))


def _run(config: Path | None, flags: Mapping[str, Any]) -> int:
    # Objects made during the start stay alive. Collecting garbage among them again and again would
    # take a quarter of the time of the imports below, and of loading 100,000 sessions.
    gc.disable()
    from bamboo_gateway.server.server import serve as run_server

    return run_server(_settings(config, flags))


def _settings(config: Path | None, flags: Mapping[str, Any]) -> "Settings":
    from bamboo_gateway.settings import SettingsError, load_settings

    try:
        return load_settings(config, **flags)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error

"""`bamboo config`: what settings a gateway would have, and whether it could start with them."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import JsonOption
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    print_json,
    print_line,
    print_table,
)
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

EnvFileOption = Annotated[
    Path | None,
    typer.Option(
        "--env-file",
        help="File of NAME=VALUE lines that is added to the environment, as systemd and Docker do.",
        metavar="FILE",
    ),
]
AllOption = Annotated[bool, typer.Option("--set", help="Only the settings that are not defaults.")]
FormatArgument = Annotated[str, typer.Argument(help="`toml` or `env`.", metavar="FORMAT")]

commands = typer.Typer(
    help="Show and check the settings that a gateway would start with.", no_args_is_help=True
)


@commands.command("show")
def show_config(
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
    env_file: EnvFileOption = None,
    set_only: AllOption = False,
    json: JsonOption = False,
) -> None:
    """Show every setting, its value, and where it comes from; secrets are masked.

    It takes the flags of `bamboo serve`. A fault ends it with exit code 2.
    """
    from bamboo_gateway.cli.config_values import shown
    from bamboo_gateway.settings import Settings, examine_settings, origins

    _read_env_file(env_file)
    flags = _flags(locals())
    settings, faults = examine_settings(config, **flags)
    if settings is None or faults:
        raise CommandError(faults[0], ExitCode.USAGE)
    origin_of = origins(config, **flags)
    names = [name for name in Settings.model_fields if not set_only or origin_of[name] != "default"]
    values = {name: shown(settings, name) for name in names}
    if json:
        for name in names:
            print_json({"name": name, "value": values[name], "source": origin_of[name]})
        return
    rows = [(name, origin_of[name], _text(values[name])) for name in names]
    print_table(("SETTING", "FROM", "VALUE"), rows, last_is_whole=True)


@commands.command("check")
def check_config(
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
    env_file: EnvFileOption = None,
    json: JsonOption = False,
) -> None:
    """Say everything that is wrong with the settings, without starting a gateway.

    It takes the flags of `bamboo serve`, imports Python agents, and reads the files of credentials.
    It opens no store, no port and no connection. Exit codes: 0 without a fault, 2 with one.
    """
    from bamboo_gateway.cli.config_values import masked
    from bamboo_gateway.settings import examine_settings

    _read_env_file(env_file)
    settings, faults = examine_settings(config, **_flags(locals()))
    if settings is not None:
        from bamboo_gateway.server.check import start_faults

        faults += start_faults(settings)
    faults = [masked(fault) for fault in faults]
    if json:
        print_json({"ok": not faults, "faults": faults})
    else:
        for fault in faults or ["the settings are right"]:
            print_line(fault)
    raise typer.Exit(ExitCode.USAGE if faults else ExitCode.OK)


@commands.command("example")
def print_example(form: FormatArgument = "toml") -> None:
    """Print a file with every setting, its default and its meaning, to begin a configuration from.

    `toml` is for --config, `env` for systemd's EnvironmentFile= and `docker run --env-file`.
    """
    from bamboo_gateway.cli.config_values import example_env, example_toml

    if form not in {"toml", "env"}:
        raise CommandError(f"{form}: write toml or env", ExitCode.USAGE)
    typer.echo(example_toml() if form == "toml" else example_env(), nl=False)


def _flags(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that are settings, of a command's parameters."""
    names = ("host", "port", "data_dir", "durability", "storage_url", "insecure", "log_format",
             "log_level")  # fmt: skip
    flags = {name: parameters[name] for name in names}
    return {**flags, "agents": read_agents(parameters["agent"])}


def _read_env_file(file: Path | None) -> None:
    """Add a file's variables to the environment of this process, where it lacks them.

    Raises:
        CommandError: The file cannot be read, or a line is no `NAME=VALUE`.
    """
    if file is None:
        return
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CommandError(f"{file} cannot be read: {reason}", ExitCode.USAGE) from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier():
            # Without the line itself: it may have a secret.
            raise CommandError(f"{file}: line {number} is no NAME=VALUE", ExitCode.USAGE)
        os.environ.setdefault(name, value)


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    match value:
        case bool():
            return str(value).lower()
        case list():
            return ",".join(str(one) for one in value)
        case dict():
            return "  ".join(f"{name}={url}" for name, url in value.items())
        case _:
            return str(value)

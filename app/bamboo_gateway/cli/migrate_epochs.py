"""`bamboo migrate new-epochs`: let all clients load again what a database has now."""

from pathlib import Path
from typing import Annotated

import typer

from bamboo_gateway.cli.options import JsonOption
from bamboo_gateway.cli.output import CommandError, ExitCode, print_json, stdout


def new_epochs(
    storage_url: Annotated[
        str | None, typer.Option(help="The database. Default: BAMBOO_STORAGE_URL.", metavar="URL")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", metavar="FILE")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Give every session of a PostgreSQL database a new epoch, so that clients load it again.

    Run it after a dump was restored, while no gateway runs. When a standby was promoted, or the
    database was recovered to an earlier point, the gateway does it by itself.

    Exit codes: 0 it is done; 2 the database cannot be used, and is as it was.
    """
    from bamboo_gateway.domain.errors import BambooError
    from bamboo_gateway.observability.logs import log_as_a_library
    from bamboo_gateway.settings import SettingsError, load_settings
    from bamboo_gateway.storage.factory import give_new_epochs

    # Stdout is for the answer.
    log_as_a_library()
    try:
        count = give_new_epochs(load_settings(config, storage_url=storage_url))
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except BambooError as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error
    if json:
        print_json({"sessions": count})
    else:
        stdout().print(f"{count} sessions have a new epoch.")

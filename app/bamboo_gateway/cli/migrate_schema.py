"""`bamboo migrate schema`: change the tables of a database while no gateway runs."""

from pathlib import Path
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode, stdout


def schema(
    to: Annotated[
        str | None,
        typer.Option(
            help="Version to reach, for a downgrade an older one; `base` removes the tables. "
            "Default: the newest.",
            metavar="VERSION",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; print the SQL.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask before a downgrade to `base`.")
    ] = False,
    storage_url: Annotated[
        str | None, typer.Option(help="The database. Default: BAMBOO_STORAGE_URL.", metavar="URL")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", metavar="FILE")
    ] = None,
) -> None:
    """Upgrade the tables of a database, or downgrade them.

    It is one transaction: it happens as a whole or not at all. Make a backup first. An empty
    database needs no command: `bamboo serve` creates its tables.

    Exit codes: 0 the schema has that version; 2 it could not be changed, and is as it was.
    """
    from bamboo_gateway.domain.errors import BambooError
    from bamboo_gateway.observability.logs import log_as_a_library
    from bamboo_gateway.settings import SettingsError, load_settings
    from bamboo_gateway.storage.factory import migrate_schema

    if to == "base" and not (yes or dry_run):
        typer.confirm("This deletes all sessions of the database. Go on?", abort=True)
    # Stdout is for the answer.
    log_as_a_library()
    try:
        settings = load_settings(config, storage_url=storage_url)
        change = migrate_schema(settings, to, is_dry=dry_run)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except BambooError as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error
    if change.script:
        # Not through rich, which would fold the lines.
        typer.echo(change.script, nl=False)
        return
    names = [version or "none" for version in (change.before, change.after)]
    if names[0] == names[1]:
        stdout().print(f"The schema has version {names[0]} already.")
    else:
        stdout().print(f"The schema went from version {names[0]} to {names[1]}.")

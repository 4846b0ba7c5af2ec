"""`bamboo migrate`: commands that move sessions or tables while no gateway runs."""

import typer

from bamboo_gateway.cli.migrate_data import data
from bamboo_gateway.cli.migrate_epochs import new_epochs
from bamboo_gateway.cli.migrate_schema import schema

commands = typer.Typer(
    help="Move sessions to another store, or a database to another version.", no_args_is_help=True
)


@commands.callback()
def _group() -> None:
    """Move sessions to another store, or a database to another version."""


commands.command()(data)
commands.command()(schema)
commands.command("new-epochs")(new_epochs)

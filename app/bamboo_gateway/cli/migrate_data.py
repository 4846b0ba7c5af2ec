"""`bamboo migrate data`: copy all sessions from one store to another while no gateway runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode, print_json, stderr, stdout

if TYPE_CHECKING:
    from bamboo_gateway.settings import Settings
    from bamboo_gateway.storage.migration.migrate import Migrated


def data(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The store that has the sessions.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="An empty store.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; print what would be copied.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="The directory that `jsonl:` means.", metavar="DIR")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings.", metavar="FILE")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a line for each session, then a summary.")
    ] = False,
) -> None:
    """Copy all sessions from one store to another, and compare both sides afterwards.

    FROM and TO are written as `storage_url` is: jsonl:/directory, sqlite:///file,
    postgresql://user@host/database. Stop the gateway first. Ids, positions, times, archives, shares
    and the answers to idempotency keys are kept, so clients go on where they are.

    When it is interrupted, run it again: it goes on. Until it has ended, no gateway opens TO. FROM
    stays as it is.

    Exit codes: 0 both sides are equal; 1 it failed, and can go on; 2 a store cannot be used.
    """
    import anyio

    from bamboo_gateway.domain.errors import BambooError
    from bamboo_gateway.observability.logs import log_as_a_library
    from bamboo_gateway.settings import SettingsError, load_settings
    from bamboo_gateway.storage.base import StoreBusy, StoreUnusable
    from bamboo_gateway.storage.store_copy import copy_store

    # Stdout is for the answer.
    log_as_a_library()
    try:
        ours = load_settings(config, data_dir=data_dir, storage_url=source, bus_url="")
        theirs = load_settings(config, data_dir=data_dir, storage_url=target, bus_url="")
        _check_different(ours, theirs)
        with _progress() as advance:
            done = anyio.run(lambda: copy_store(ours, theirs, advance, is_dry=dry_run))
        if not dry_run and _copy_keys(ours, theirs):
            done.beside.append("the API keys")
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except (StoreBusy, StoreUnusable) as error:
        raise CommandError(error.detail, ExitCode.USAGE) from error
    except BambooError as error:
        raise CommandError(error.detail, ExitCode.FAILED) from error
    _print(done, theirs, as_json=json, dry_run=dry_run)


def _check_different(source: "Settings", target: "Settings") -> None:
    for name, settings in (("FROM", source), ("TO", target)):
        if settings.storage.scheme == "memory":
            raise CommandError(f"{name}: `memory:` keeps nothing", ExitCode.USAGE)
    if source.storage_place == target.storage_place:
        raise CommandError("FROM and TO are the same store", ExitCode.USAGE)


def _copy_keys(source: "Settings", target: "Settings") -> bool:
    """Bring the API keys to or from a database, unless the target ever had one.

    Between two directories their file is copied as it is.

    Raises:
        BambooError: They cannot be read or written; the same command goes on.
    """
    from bamboo_gateway.credentials.keyfile import KeyFile
    from bamboo_gateway.storage.factory import make_api_keys

    if not (source.keeps_keys_in_store or target.keeps_keys_in_store):
        return False
    if source.keeps_keys_in_store:
        keys = make_api_keys(source).read()
    else:
        keys = KeyFile(_keys_file(source)).read()
    if not keys:
        return False
    if target.keeps_keys_in_store:
        return make_api_keys(target).take_over(keys)
    path = _keys_file(target)
    if path.exists():
        return False
    KeyFile(path).change(lambda known: known or keys)
    return True


def _keys_file(settings: "Settings") -> Path:
    """Return the keys file that lies beside the sessions."""
    path = settings.keys_path
    assert path is not None  # only `memory:` has none
    if settings.api_keys_file is None and settings.storage_dir is not None:
        return settings.storage_dir / path.name
    return path


def _print(done: "Migrated", target: "Settings", *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        for digest in done.digests:
            print_json(asdict(digest))
        summary = asdict(done)
        del summary["digests"]
        print_json({"dry_run": dry_run, **summary})
        return
    what = f"{done.sessions} sessions ({done.archives} archived)"
    if dry_run:
        stdout().print(
            f"Would copy {what} with {done.notes} kept answers: {done.stored_bytes} bytes."
        )
        return
    kept = f"; {done.kept} of them were there already" if done.kept else ""
    values = f", {done.values} values beside them" if done.values else ""
    lines = [
        f"Copied {what}: {done.events} events and {done.notes} kept answers{kept}{values}.",
        f"Both sides were read afterwards, and are equal: sha256 {done.sha256}.",
    ]
    if done.beside:
        lines.append(f"Copied too: {', '.join(done.beside)}.")
    lines.append(f'Now start the gateway with storage_url = "{target.storage}".')
    for line in lines:
        stdout().print(line, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show progress bars on stderr if that is a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks = {step: bar.add_task(step, total=None) for step in ("copying", "comparing")}
        yield lambda step, done, total: bar.update(tasks[step], completed=done, total=total)

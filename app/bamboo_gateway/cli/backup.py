"""`bamboo backup` and `bamboo restore`: copies of a store, made while its gateway runs."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bamboo_gateway.cli.lifecycle import restore_archived
from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import CommandError, ExitCode, notice, print_json, print_line, stderr

if TYPE_CHECKING:
    from bamboo_gateway.settings import Settings
    from bamboo_gateway.storage.backup.manifest import Manifest

DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where sessions are kept.", metavar="DIR")
]
StorageUrlOption = Annotated[
    str | None,
    typer.Option("--storage-url", help="The store, as the setting of that name.", metavar="URL"),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")
]

_MANIFEST = "backup.json"
_FULL = {errno.ENOSPC, errno.EDQUOT}


def backup(
    to: Annotated[
        Path,
        typer.Argument(help="A new directory for the backup.", metavar="TO", show_default=False),
    ],
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    storage_url: StorageUrlOption = None,
    config: ConfigOption = None,
) -> None:
    """Copy all sessions and keys into a new directory, also while the gateway runs.

    The copy has everything that was acknowledged before the command began, and is verified while it
    is written. TO gets its name only when it is whole. The ticket secret is not in it.

    Exit codes: 0 the backup is whole; 1 it failed, and there is no TO; 2 it cannot be made like
    this: TO exists, or the store makes its backups in another way.
    """
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.storage.factory import back_up

    settings = _settings(data_dir, storage_url, config)
    with _told(to), _progress("backup") as advance:
        manifest = back_up(settings, to, SystemClock(), advance)
    _say(manifest, to, "is in", json=json)


def restore(
    what: Annotated[
        list[str],
        typer.Argument(
            help="The directory of a backup, with a slash in its path; or archived sessions, by "
            "id or the beginning of it.",
            metavar="FROM|ID…",
            show_default=False,
        ),
    ],
    verify_only: Annotated[
        bool,
        typer.Option(
            "--verify-only", help="Of a backup: read and verify every byte, and restore nothing."
        ),
    ] = False,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    storage_url: StorageUrlOption = None,
    config: ConfigOption = None,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Restore a backup into an empty data directory; or bring archived sessions back.

    A backup is verified while it is restored, and all of it is restored or nothing. Every session
    gets a new epoch: clients that saw what the backup does not have load again.

    Exit codes for a backup: 0 done; 1 it is damaged or the restore failed, and nothing was
    restored; 2 it cannot be restored there.
    """
    if len(what) != 1 or not _is_path(what[0]):
        if verify_only:
            raise CommandError(f"--verify-only: {what[0]} is no backup", ExitCode.USAGE)
        restore_archived(what, json=json, url=url, api_key=api_key)
        return
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.storage.factory import open_backup, restore_backup

    settings = _settings(data_dir, storage_url, config)
    path = Path(what[0])
    with _told(path), _progress("verify" if verify_only else "restore") as advance:
        source = open_backup(path)
        if verify_only:
            source.verify(advance)
        else:
            restore_backup(settings, source, SystemClock(), advance)
    done = "is whole in" if verify_only else "is restored from"
    _say(source.manifest, path, done, json=json)
    keys_path = settings.keys_path
    has_keys = any(file.path == "keys.json" for file in source.manifest.files)
    if not verify_only and has_keys and keys_path != settings.data_dir.expanduser() / "keys.json":
        notice(f"api_keys_file names {keys_path}: the keys of the backup are in data_dir, unused")


def _is_path(text: str) -> bool:
    """Return whether an argument is a backup: the id of a session has no slash."""
    return "/" in text or text in {".", ".."} or (Path(text) / _MANIFEST).exists()


def _settings(data_dir: Path | None, storage_url: str | None, config: Path | None) -> "Settings":
    from bamboo_gateway.settings import SettingsError, load_settings

    try:
        return load_settings(config, data_dir=data_dir, storage_url=storage_url, bus_url="")
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell failures in one line."""
    from bamboo_gateway.domain.errors import BambooError

    try:
        yield
    except BambooError as error:
        is_usage = error.code == "backup-refused"
        raise CommandError(error.detail, ExitCode.USAGE if is_usage else ExitCode.FAILED) from error
    except OSError as error:
        where = f"{error.filename or path}"
        remedy = "; nothing was kept" if error.errno in _FULL else ""
        raise CommandError(f"{where}: {(error.strerror or str(error)).lower()}{remedy}") from error


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr if that is a terminal."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (what, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = stderr()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _say(manifest: "Manifest", path: Path, done: str, *, json: bool) -> None:
    shape: dict[str, Any] = {
        "path": str(path),
        "store": manifest.store,
        "began_at": manifest.began_at,
        "made_at": manifest.made_at,
        "sessions": manifest.sessions,
        "files": len(manifest.files),
        "bytes": manifest.total_bytes,
    }
    if json:
        print_json(shape)
    else:
        size = f"{manifest.sessions} sessions, {len(manifest.files)} files, "
        size += f"{manifest.total_bytes} bytes"
        print_line(f"{size}: the backup of {manifest.began_at} {done} {path}")

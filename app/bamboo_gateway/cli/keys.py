"""`bamboo keys`: make, list and revoke keys where running gateways look for them.

That is the keys file, or the database of `postgresql:`.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bamboo_gateway.cli.options import JsonOption
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    notice,
    print_json,
    print_line,
    print_table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bamboo_gateway.credentials.keyfile import KeyFile
    from bamboo_gateway.credentials.shared_keys import SharedKeys
    from bamboo_gateway.domain.api_keys import ApiKey
    from bamboo_gateway.domain.callers import Right
    from bamboo_gateway.settings import Settings

NAME_CHARS_MAX: Final = 200
"""Longer names do not fit into the list."""

_SECONDS: Final = {"m": 60, "h": 3600, "d": 86_400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([mhd])")

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML file with settings.", metavar="FILE")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where sessions are kept.", metavar="DIR")
]

commands = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)


@commands.command("create")
def create_key(
    user: Annotated[
        str | None, typer.Option(help="The user of the key.", metavar="USER", show_default=False)
    ] = None,
    service: Annotated[
        bool,
        typer.Option("--service", help="A key for a program that names its user in X-User-Id."),
    ] = False,
    rights: Annotated[
        str,
        typer.Option(
            help="Some of read, answer, write and admin, separated by commas.", metavar="RIGHTS"
        ),
    ] = "read,write",
    name: Annotated[str, typer.Option(help="A name for the list.", metavar="NAME")] = "",
    expires: Annotated[
        str | None,
        typer.Option(
            help="When the key expires: RFC 3339, or after 90d, 12h, 30m.", metavar="TIME"
        ),
    ] = None,
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key. It is printed once, and kept only as a digest."""
    from bamboo_gateway.credentials.keyfile import with_room
    from bamboo_gateway.credentials.keys import make_key
    from bamboo_gateway.domain.api_keys import ApiKey
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.errors import BambooError
    from bamboo_gateway.domain.ids import check_user_id

    if (user is None) is not service:
        raise CommandError("say whose key it is: --user USER, or --service", ExitCode.USAGE)
    if len(name) > NAME_CHARS_MAX:
        raise CommandError(f"--name has at most {NAME_CHARS_MAX} characters", ExitCode.USAGE)
    allowed = _rights(rights)
    now_ms = SystemClock().now_ms()
    expires_at = None if expires is None else _expiry(expires, now_ms)
    settings = _settings(data_dir, config)
    key_id, text, digest = make_key()
    try:
        kept = _kept_keys(settings, is_change=True)
        user_id = None if user is None else check_user_id(user)
        key = ApiKey(key_id, digest, user_id, allowed, name, now_ms, expires_at)
        kept.change(lambda keys: [*with_room(keys), key])
    except BambooError as error:
        raise CommandError(error.detail) from error
    _record(settings, "create-key", [key_id], now_ms)
    if json:
        print_json({"key": text, **_shape(key, now_ms)})
        return
    notice(f"{key_id} is in {kept.place}; save the key, it is shown only once")
    print_line(text)


@commands.command("list")
def list_keys(
    json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None
) -> None:
    """List the keys there are, without their secrets."""
    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.errors import BambooError

    try:
        keys = _kept_keys(_settings(data_dir, config), is_change=False).read()
    except BambooError as error:
        raise CommandError(error.detail) from error
    now_ms = SystemClock().now_ms()
    shapes = [_shape(key, now_ms) for key in keys]
    if json:
        for shape in shapes:
            print_json(shape)
    else:
        _print_keys(shapes)


@commands.command("revoke")
def revoke_keys(
    keys: Annotated[list[str], typer.Argument(help="Which keys, by id.", metavar="ID…")],
    json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke keys: within seconds they are refused, and streams opened with them end."""
    from dataclasses import replace

    from bamboo_gateway.domain.clock import SystemClock
    from bamboo_gateway.domain.errors import BambooError

    settings = _settings(data_dir, config)
    wanted = {_id_of(text) for text in keys}
    now_ms = SystemClock().now_ms()

    def revoked(known: "Sequence[ApiKey]") -> "Sequence[ApiKey]":
        unknown = sorted(wanted - {key.id for key in known})
        if unknown:
            raise CommandError(f"no key {', '.join(unknown)}; `bamboo keys list` shows them")
        return [
            replace(key, revoked_at=now_ms) if key.id in wanted and key.revoked_at is None else key
            for key in known
        ]

    try:
        _kept_keys(settings, is_change=True).change(revoked)
    except BambooError as error:
        raise CommandError(error.detail) from error
    _record(settings, "revoke-key", sorted(wanted), now_ms)
    for key_id in sorted(wanted):
        if json:
            print_json({"id": key_id, "state": "revoked"})
        else:
            notice(f"revoked {key_id}")


def _settings(data_dir: Path | None, config: Path | None) -> "Settings":
    from bamboo_gateway.settings import SettingsError, load_settings

    try:
        return load_settings(config, data_dir=data_dir)
    except SettingsError as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _record(settings: "Settings", action: str, key_ids: list[str], now_ms: int) -> None:
    """Record a change in the audit log. The change stays when the record cannot be written."""
    from bamboo_gateway.observability.audit import AuditLog, AuditRecord

    path = settings.audit_path
    if path is None:
        return
    caller = f"uid:{os.getuid()}"
    record = AuditRecord(at_ms=now_ms, action=action, caller=caller, targets=key_ids)
    try:
        if path.parent == settings.data_dir.expanduser():
            # A database may have the keys before any gateway has made the directory.
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        AuditLog(path).write(record)
    except OSError as error:
        notice(f"it is done, but not recorded in the audit log {path}: {error.strerror}")


def _kept_keys(settings: "Settings", *, is_change: bool) -> "KeyFile | SharedKeys":
    """Return the keys where the gateway reads them.

    Raises:
        BambooError: They cannot be read.
    """
    from bamboo_gateway.credentials.keyfile import KeyFile
    from bamboo_gateway.credentials.shared_keys import take_over
    from bamboo_gateway.observability.logs import log_as_a_library
    from bamboo_gateway.storage.factory import make_api_keys

    path = settings.keys_path
    if path is None:
        raise CommandError(
            "storage_url `memory:` keeps no keys file; set api_keys_file", ExitCode.USAGE
        )
    if not settings.keeps_keys_in_store:
        return KeyFile(path)
    # Stdout is for the answer.
    log_as_a_library()
    shared = make_api_keys(settings)
    if is_change:
        if take_over(shared, path):
            notice(f"the keys of {path} are in {shared.place} from now on")
    elif not shared.version():
        return KeyFile(path)  # what a change takes over
    return shared


def _rights(text: str) -> "frozenset[Right]":
    from typing import get_args

    from bamboo_gateway.domain.callers import Right

    rights: tuple[Right, ...] = get_args(Right)
    named = {part.strip() for part in text.split(",")}
    if not named <= set(rights):
        raise CommandError("--rights are some of read, answer, write and admin", ExitCode.USAGE)
    if named == {"answer"}:
        named.add("read")  # nobody can answer what they cannot read
    return frozenset(right for right in rights if right in named)


def _expiry(text: str, now_ms: int) -> int:
    from bamboo_gateway.domain.clock import parse_ms

    match = _DURATION.fullmatch(text)
    try:
        at_ms = (
            now_ms + int(match[1]) * _SECONDS[match[2]] * 1000
            if match is not None
            else parse_ms(text)
        )
    except (ValueError, OverflowError) as error:
        raise CommandError(
            f"--expires {text}: write 2027-01-31T12:00:00Z, or 90d, 12h, 30m", ExitCode.USAGE
        ) from error
    if at_ms <= now_ms:
        raise CommandError(f"--expires {text} has passed already", ExitCode.USAGE)
    return at_ms


def _id_of(text: str) -> str:
    # The key itself is accepted in place of its id, so that its owner need not look the id up.
    return "key-" + text.split("_")[1] if text.startswith("bamboo_") else text


def _shape(key: "ApiKey", now_ms: int) -> dict[str, Any]:
    from bamboo_gateway.domain.clock import format_ms

    state = (
        "revoked" if key.revoked_at is not None else "live" if key.is_live(now_ms) else "expired"
    )
    return {
        "id": key.id,
        "name": key.name,
        "user_id": key.user_id,
        "rights": sorted(key.rights),
        "state": state,
        "created_at": format_ms(key.created_at),
        "expires_at": None if key.expires_at is None else format_ms(key.expires_at),
    }


def _print_keys(shapes: list[dict[str, Any]]) -> None:
    if not shapes:
        notice("no keys")
        return
    print_table(
        ("ID", "State", "User", "Rights", "Created", "Expires", "Name"),
        [
            (
                shape["id"],
                shape["state"],
                shape["user_id"] or "(service)",
                ",".join(shape["rights"]),
                shape["created_at"],
                shape["expires_at"] or "never",
                shape["name"],
            )
            for shape in shapes
        ],
    )

"""Values of settings as people may see them, with secrets masked; and files with every setting."""

import json  # noqa: TID251 - its text is TOML's too, and it writes no event
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus

from pydantic import SecretStr

from bamboo_gateway.domain.bus_url import shown_bus_url
from bamboo_gateway.settings import Settings

MASK: Final = "***"

_SECRETS: Final = frozenset({"api_keys", "jwt_secret", "ticket_secret"})
"""The settings that are secrets as a whole."""

_USER_OF_URL: Final = re.compile(r"(?<=://)[^/\s@\"']+(?=@)")
_SECRET_NAME: Final = re.compile(
    r"(?i)(key|secret|passw(or)?d|passphrase|token|credential|authorization|signature|keys)$"
)
_LINE_CHARS: Final = 100


def shown(settings: Settings, name: str) -> Any:
    """Return a setting's value as JSON, with every secret masked."""
    value = getattr(settings, name)
    if name == "storage_url":
        return str(settings.storage)
    if name == "bus_url" and value is not None:
        return shown_bus_url(value)
    if name in _SECRETS:
        return [MASK] * len(value) if isinstance(value, tuple) else value and MASK
    return _plain(value)


def masked(text: str) -> str:
    """Return a text with the users and passwords of URLs masked, and secrets of their queries.

    The value of a member such as `api_key_env` is the name of a variable and stays.
    """
    head, mark, query = _USER_OF_URL.sub(_user, text).partition("?")
    return head + mark + "&".join(_member(part) for part in query.split("&"))


def example_toml() -> str:
    """Return a TOML file with every setting as a comment: its meaning, and its default."""
    return _example("", lambda name, value: f"{name} = {_toml(value)}")


def example_env() -> str:
    """Return a file of variables with every setting as a comment: its meaning, and its default."""
    return _example("BAMBOO_", lambda name, value: f"BAMBOO_{name.upper()}={_variable(value)}")


def _user(match: re.Match[str]) -> str:
    # One without a password may be a token by itself, as some servers take it.
    name, colon, _ = match[0].partition(":")
    return f"{name}:{MASK}" if colon else MASK


def _member(part: str) -> str:
    name, equals, value = part.partition("=")
    if equals and _SECRET_NAME.search(name):
        return f"{name}={MASK}"
    plain = unquote_plus(value)
    hidden = _USER_OF_URL.sub(_user, plain)
    return part if hidden == plain else f"{name}={hidden}"


def _plain(value: Any) -> Any:
    match value:
        case SecretStr():
            return MASK
        case Path():
            return masked(str(value))
        case str():
            return masked(value)
        case tuple():
            return [_plain(one) for one in value]
        case dict():
            return {name: _plain(one) for name, one in value.items()}
        case _:
            return value


def _example(prefix: str, line: Any) -> str:
    kind = "variable" if prefix else "setting"
    text = f"# Every {kind} of Bamboo Gateway with its default. Remove the `#` to set one.\n"
    # In TOML a table ends the settings before it, so that `agents` comes last.
    names = sorted(Settings.model_fields, key=lambda name: name == "agents" and not prefix)
    for name in names:
        field = Settings.model_fields[name]
        default = field.get_default(call_default_factory=True)
        text += "\n" + "".join(_comment(field.description or ""))
        if default is None or default == ():
            text += f"#{line(name, _SAMPLES.get(name, ''))}\n"
        else:
            text += f"#{line(name, default)}\n"
    return text


def _comment(text: str) -> Iterator[str]:
    for one in textwrap.wrap(text.replace("`", ""), _LINE_CHARS - 2, break_on_hyphens=False):
        yield f"# {one}\n"


def _toml(value: Any) -> str:
    match value:
        case dict():
            inner = ", ".join(f"{name} = {_toml(one)}" for name, one in value.items())
            return f"{{ {inner} }}"
        case tuple():
            return f"[{', '.join(_toml(one) for one in value)}]"
        case Path():
            return _toml(str(value))
        case float():
            return f"{value:g}" if value < 1e6 else f"{value:.0f}"
        case _:
            return json.dumps(value)


def _variable(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return json.dumps(value)
        case tuple():
            return ",".join(one if isinstance(one, str) else f"{one:g}" for one in value)
        case _:
            return str(value)


_SAMPLES: Final = {
    "storage_password_file": "/run/secrets/bamboo-database",
    "trusted_proxies": ("127.0.0.1", "10.0.0.0/8"),
    "api_keys": ("a-long-secret",),
    "api_keys_file": "/var/lib/bamboo/keys.json",
    "jwt_secret": "at-least-32-bytes-of-your-own-choice",
    "jwt_public_key_file": "/etc/bamboo/issuer.pem",
    "jwt_jwks_file": "/etc/bamboo/jwks.json",
    "jwks_url": "https://login.example.com/jwks.json",
    "jwt_issuer": "https://login.example.com",
    "jwt_audience": "bamboo",
    "ticket_secret": "at-least-32-bytes-of-your-own-choice",
    "default_ttl_seconds": 7_776_000,
    "max_sessions": 100_000,
    "max_sessions_per_user": 1000,
    "max_stored_bytes": 100_000_000_000,
    "max_stored_bytes_per_user": 1_000_000_000,
    "archive_retention_days": 365,
    "max_active_sessions_per_user": 250,
    "stream_lifetime_seconds": 3600.0,
    "max_active_runs": 500,
    "max_tokens_per_user_day": 1_000_000,
    "max_tcp_connections_per_address": 100,
    "rate_limit_in_all": "10000/second",
    "public_url": "https://chat.example.com",
    "export_dir": "/var/lib/bamboo/exports",
    "cors_origins": ("https://chat.example.com",),
    "otel_endpoint": "http://127.0.0.1:4318",
    "audit_log": "/var/log/bamboo/audit.jsonl",
}
"""What the settings without a default could be, for the examples."""

"""Every setting with its default, its unit and its reason.

Flags win over the environment (`BAMBOO_…`), the environment over the TOML file, the file over the
defaults. A wrong value or an unknown name stops the start with one line.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, assert_never

from limits import parse_many
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import (
    SettingsError as SettingsSourceError,
)
from typing_extensions import override

from bamboo_gateway.domain.bus_url import check_bus_url
from bamboo_gateway.domain.path_prefix import check_prefix
from bamboo_gateway.domain.storage_url import StorageUrl
from bamboo_gateway.domain.suggestions import nearest_name

MiB = 1024 * 1024

_PREFIX: Final = "BAMBOO_"

_RETRY_SECONDS_MAX: Final = 7 * 24 * 3600
WIRES: Final = ("ag-ui", "ai-sdk", "durable-streams", "openai")
"""The wires that there are (`wires.factory`)."""

_COMMAND_VARIABLES: Final = frozenset({"BAMBOO_URL", "BAMBOO_API_KEY"})
"""The variables of the commands that call a gateway (`cli.options`); both may be set together."""

# The variables that Kubernetes and Docker set in every container for each service of a namespace.
_LINK_NAME: Final = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_LINK_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")


# `memory:` or `postgres://…`, as a path writes them. One letter is a drive of Windows.
_STORAGE_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:)(/.*)?", re.DOTALL)


class Settings(BaseSettings):
    """The settings of one gateway, frozen, read once at the start."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        frozen=True,
        extra="forbid",
        validate_default=True,
        # A wrong value may be a password, or have one.
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(
        Path("~/.bamboo/sessions"), description="The directory of sessions; created with mode 0700."
    )
    # Not in the settings' repr: it may have a password.
    storage_url: str = Field(
        "jsonl:",
        repr=False,
        description="The store: `jsonl:` (files in `data_dir`, or in another directory: "
        "`jsonl:/directory`), `sqlite:` (one file in `data_dir`) or `sqlite:///file`, "
        "`postgresql://user@host/database`, or `memory:` (nothing is kept).",
    )
    storage_password_file: Path | None = Field(
        None,
        description="The file with the password of the database's user; it is read for each "
        "connection.",
    )
    # Not in the settings' repr: it may have a password.
    bus_url: str | None = Field(
        None,
        repr=False,
        description="The Redis that gateways with one PostgreSQL database tell each other by what "
        "they stored: `redis://user:password@host:6379/0`, or `rediss://` with TLS. Unset: they "
        "look for it in the database, four times a second.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    root_path: str = Field(
        "",
        description="The path below which a proxy serves the gateway, like `/bamboo`: every URL in "
        "answers begins with it. Requests may have it or not.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses and networks of proxies, comma-separated: their "
        "`X-Forwarded-Prefix` counts in place of `root_path`. Others' never counts.",
    )
    insecure: bool = Field(
        False,
        description="Allows a non-loopback `host` without credentials: everybody there is served.",
    )
    api_keys: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="The operator's bearer keys, comma-separated; they may do everything.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="The file of `bamboo keys`; unset: the database with PostgreSQL, else "
        "`keys.json` in `data_dir`.",
    )
    jwt_secret: SecretStr | None = Field(
        None, description="Verifies JSON Web Tokens by HS256; at least 32 bytes."
    )
    jwt_public_key_file: Path | None = Field(
        None, description="A public key in PEM that verifies tokens: RSA (RS256) or P-256 (ES256)."
    )
    jwt_jwks_file: Path | None = Field(
        None, description="A JSON Web Key Set that verifies tokens, by their `kid`."
    )
    jwks_url: str | None = Field(
        None,
        description="The URL of an identity provider's JSON Web Key Set that verifies tokens: "
        "https, or http on this machine. It is read again when the provider changes its keys.",
    )
    jwks_max_stale_seconds: float = Field(
        24 * 3600,
        gt=0,
        allow_inf_nan=False,
        description="How long the keys of `jwks_url` stay in force while the provider cannot be "
        "read; then no token is accepted.",
    )
    jwt_issuer: str | None = Field(
        None, min_length=1, description="The `iss` that a token must have."
    )
    jwt_audience: str | None = Field(
        None, min_length=1, description="The `aud` that a token must have; unset: it has none."
    )
    jwt_leeway_seconds: float = Field(
        30,
        ge=0,
        le=600,
        allow_inf_nan=False,
        description="How much the clocks of gateway and issuer may differ.",
    )
    ticket_secret: SecretStr | None = Field(
        None,
        description="Signs tickets and cookies; at least 32 bytes. Unset: the gateway makes one, "
        "kept as `ticket-secret` in `data_dir`, or in the database with PostgreSQL.",
    )
    ticket_ttl_seconds: int = Field(
        60,
        ge=1,
        le=3600,
        description="How long a ticket is valid; a page uses it at once.",
    )
    login_ttl_seconds: int = Field(
        12 * 3600,
        ge=60,
        le=30 * 24 * 3600,
        description="How long the cookie of a login is valid: a working day.",
    )
    agents: dict[str, str] = Field(
        default_factory=lambda: {"default": "demo:"},
        description="Agents, name to URL (JSON); `default` answers chats that name none.",
    )
    durability: Literal["fsync", "os"] = Field(
        "fsync",
        description="What an acknowledgement means: `fsync` on the disk, `os` in the kernel "
        "(survives kill -9, not power loss).",
    )
    default_ttl_seconds: int | None = Field(
        None,
        ge=1,
        description="Time to live of sessions without their own, counted from the last activity. "
        "Unset: such a session stays until somebody deletes it.",
    )
    max_sessions: int | None = Field(
        None,
        ge=1,
        description="The most sessions that may exist; creating more is refused with 429.",
    )
    max_sessions_per_user: int | None = Field(
        None, ge=1, description="The most sessions of one user; creating more is refused with 429."
    )
    max_stored_bytes: int | None = Field(
        None,
        ge=1,
        description="The most bytes of all sessions: their logs, and archived ones as "
        "compressed. Beyond it writes are refused with 429; active runs may still end.",
    )
    max_stored_bytes_per_user: int | None = Field(
        None,
        ge=1,
        description="The most bytes of the sessions of one user, counted in the same way.",
    )
    max_file_bytes: int = Field(
        20 * MiB, ge=1, description="The largest file; a larger one is refused with 413."
    )
    max_import_bytes: int = Field(
        512 * MiB, ge=1024, description="The largest zip of a session with files to import."
    )
    max_uploads: int = Field(
        100, ge=1, description="The most files that are being uploaded at a time; more: 503."
    )
    max_uploads_per_caller: int = Field(
        20,
        ge=1,
        description="The same for one caller (without credentials: one address); more: 429.",
    )
    upload_timeout_seconds: float = Field(
        600,
        gt=0,
        description="How long the upload of a file may take. 600 s are enough for 20 MiB at 35 "
        "KiB/s.",
    )
    file_retention_seconds: float = Field(
        24 * 3600,
        ge=0,
        description="How long a file is kept that no session names; then the next cleanup removes "
        "it.",
    )
    cleanup_interval_seconds: float = Field(
        3600, gt=0, description="How often the gateway looks for sessions to clean."
    )
    cleanup_period_days: int = Field(
        30,
        ge=0,
        description="How long an expired session is kept, so that `reopen` can bring it back; "
        "then it is cleaned. 0: at the next cleanup.",
    )
    archive_retention_days: int | None = Field(
        None, ge=1, description="Archived sessions are deleted after this long; unset: never."
    )
    index_enabled: bool = Field(
        True, description="Keeps the index of lists in memory; if off, lists read the catalog file."
    )
    idle_timeout_seconds: float = Field(
        300,
        gt=0,
        description="A session without run or call for this long leaves memory; its streams stay "
        "open.",
    )
    disconnect_retention_seconds: float = Field(
        3600, gt=0, description="How long an ended connection is remembered for `/reconnect`."
    )
    max_active_sessions: int = Field(
        1000,
        ge=1,
        description="The most sessions in memory. If all are busy with a run or a call: 503. "
        "Open streams do not count.",
    )
    max_active_sessions_per_user: int | None = Field(
        None,
        ge=1,
        description="The most sessions of one user that are busy with a run or a call; more: "
        "429. Unset: a quarter of `max_active_sessions`, so that others have room.",
    )
    delta_retention_seconds: float = Field(
        3600, ge=0, description="How long the deltas of an ended run are kept at least."
    )
    checkpoint_interval_seconds: float = Field(
        5, gt=0, description="The journal is written into the logs at least this often."
    )
    heartbeat_interval_seconds: float = Field(
        15,
        gt=0,
        description="How often a silent stream sends a heartbeat; proxies cut after 30 to 60 s.",
    )
    send_timeout_seconds: float = Field(
        30,
        gt=0,
        description="A connection that reads nothing for this long is closed; also "
        "TCP_USER_TIMEOUT.",
    )
    stream_lifetime_seconds: float | None = Field(
        None, gt=0, description="Every stream ends after this long with `goodbye lifetime`."
    )
    drain_timeout_seconds: float = Field(
        10, ge=0, description="How long active runs may take to finish after SIGTERM."
    )
    cancel_timeout_seconds: float = Field(
        10, gt=0, description="How long a cancel call waits for the run's terminal event."
    )
    agent_abandon_seconds: float = Field(
        30,
        gt=0,
        description="How long a cancelled agent may take to end; then the gateway stops waiting "
        "for it.",
    )
    external_run_timeout_seconds: float = Field(
        300, gt=0, description="An external run without an event for this long ends with `timeout`."
    )
    max_queued_runs: int = Field(
        100, ge=0, description="The most queued runs of one session; more: 429."
    )
    max_branches: int = Field(
        200,
        ge=1,
        description="The most branches of one session, with the first; more: 409. Each takes some "
        "hundred bytes of what is written with every message.",
    )
    max_queued_runs_per_user: int = Field(
        1000, ge=1, description="The most queued runs in all sessions of one user; more: 429."
    )
    max_queued_runs_in_all: int = Field(
        10_000, ge=1, description="The most queued runs in all sessions together; more: 429."
    )
    max_active_runs: int | None = Field(
        None,
        ge=1,
        description="The most sessions with an active run; more: 429. Each is in memory, so "
        "`max_active_sessions` is a limit as well.",
    )
    max_active_runs_per_user: int = Field(
        100, ge=1, description="The most sessions of one user with an active run; more: 429."
    )
    max_tokens_per_user_day: int | None = Field(
        None,
        ge=1,
        description="The most tokens that runs in the sessions of one user may use in a day (UTC); "
        "then runs are refused with 429 until the next day. A run that is executing goes on. "
        "Sessions without a user count together.",
    )
    titles: Annotated[str, Field(pattern=r"\A(first_message|off|agent:.+)\z")] = Field(
        "first_message",
        description="The title of a session that got none: `first_message` (the beginning of the "
        "user's first message), `agent:NAME` (that agent writes it after the first answer), or "
        "`off`.",
    )
    on_open_tool_calls: Literal["reject", "close"] = Field(
        "reject",
        description="What happens when messages skip open tool calls: 409, or the calls are "
        "closed without a result. Queued runs always close them.",
    )
    max_connections: int = Field(
        20_000,
        ge=1,
        description="The most open streams; more: 503. Lower than the limit of open files.",
    )
    max_tcp_connections: int = Field(
        25_000,
        ge=1,
        description="The most TCP connections; more get 503 and are closed. Above "
        "`max_connections`, so that other requests have room. At most three quarters of the "
        "files that the process may open.",
    )
    max_tcp_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="The most TCP connections from one address (an IPv6 /64). Behind a proxy all "
        "clients have the proxy's address.",
    )
    max_connections_per_user: int = Field(
        1000, ge=1, description="The most open streams of one user or one ticket; more: 429."
    )
    rate_limit_per_caller: str | None = Field(
        "1000/second",
        description="The most requests of one caller, like `100/second; 2000/minute`; more: 429. "
        "Counted while authentication is on; far above what people do. Empty: no limit.",
    )
    rate_limit_in_all: str | None = Field(
        None, description="The most requests of all callers together, in the same form; more: 429."
    )
    auth_failures_per_address: str | None = Field(
        "300/minute",
        description="The most requests without a valid credential from one address; more: 429 "
        "until the rate has fallen, except for credentials that were valid before. Empty: no "
        "limit.",
    )
    idempotency_keys_max: int = Field(
        10_000,
        ge=1,
        description="The most idempotency keys of a session; the newest are kept, for 24 h.",
    )
    idempotency_bytes_max: int = Field(
        16 * MiB,
        ge=1024,
        description="The most bytes of their answers in the log of a session; the newest one is "
        "always kept. A repeat reads them; memory holds about 600 bytes a key, of up to 100,000 "
        "keys.",
    )
    max_body_bytes: int = Field(
        16 * MiB,
        ge=1024,
        description="The largest request body; streamed NDJSON is limited by line instead.",
    )
    max_body_memory_bytes: int = Field(
        256 * MiB,
        ge=1024,
        description="The most bytes of all request bodies in memory; more wait, then 503. Bodies "
        "up to 64 KiB and streamed NDJSON do not count. Handling a body takes several times its "
        "size, so that this means 1 to 2 GiB. At least the limit of one caller.",
    )
    max_body_memory_bytes_per_caller: int = Field(
        64 * MiB,
        ge=1024,
        description="The same for one caller (without credentials: one address); more wait, then "
        "429. Four of the largest bodies. At least `max_body_bytes`.",
    )
    max_event_bytes: int = Field(
        1 * MiB, ge=1024, description="The largest event, message or line of NDJSON."
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="The URL at which clients reach the gateway, like `https://chat.example.com` "
        "or `https://example.com/bamboo`: links in webhooks begin with it. Unset: they are paths.",
    )
    max_webhooks: int = Field(
        100, ge=0, description="The most webhooks of all callers; more: 429. 0: there are none."
    )
    max_webhooks_per_user: int = Field(
        10,
        ge=0,
        description="The most webhooks of one user; more: 429. 0: only the operator has some.",
    )
    webhook_private_addresses: bool = Field(
        False,
        description="Allows webhooks to private and loopback addresses, to any port, and over "
        "`http`: for tests, and where all users are trusted.",
    )
    webhook_timeout_seconds: float = Field(
        15, gt=0, le=300, description="How long a request to a webhook may take."
    )
    webhook_retry_seconds: Annotated[tuple[float, ...], NoDecode] = Field(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        description="How long to wait before each repeat of a request that was not acknowledged, "
        "comma-separated; the last one repeats. A fifth more at random.",
    )
    webhook_disable_after_days: float = Field(
        5,
        gt=0,
        description="A webhook that fails for this long without a success is disabled; a message "
        "that fails for this long while others succeed is given up.",
    )
    export_dir: Path | None = Field(
        None, description="The directory for exports to a file; unset: they are refused."
    )
    wires: Annotated[tuple[str, ...], NoDecode] = Field(
        WIRES,
        description="The further protocols that sessions are served in, comma-separated; empty: "
        "none.",
    )
    console: bool = Field(
        True,
        description="Whether the console, a page for browsers, is served at `/console/`.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Origins of web pages that may call, comma-separated."
    )
    log_format: Literal["console", "json"] = Field("console", description="The format of the log.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The lowest level that is logged."
    )
    otel_endpoint: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="The OTLP/HTTP endpoint for traces, like `http://127.0.0.1:4318`; needs the "
        "extra `otel`. Unset: no traces.",
    )
    access_log: bool = Field(
        True, description="Logs a line for each request; slow and failed ones are logged anyway."
    )
    slow_request_seconds: float = Field(
        5,
        gt=0,
        description="A request that takes longer, and did not ask to wait, is logged as a warning.",
    )
    loop_lag_warning_seconds: float = Field(
        0.5,
        gt=0,
        description="An event loop that was blocked for this long is logged as a warning.",
    )
    audit_log: Path | None = Field(
        None,
        description="The file of the audit log; unset: `audit.jsonl` in `data_dir`, and none "
        "with `memory:`.",
    )

    @property
    def storage(self) -> StorageUrl:
        """The parsed `storage_url`."""
        return StorageUrl.parse(self.storage_url)

    @property
    def storage_dir(self) -> Path | None:
        """The directory of this machine that has the sessions; None if the store has none."""
        storage = self.storage
        match storage.scheme:
            case "jsonl":
                return storage.path or self.data_dir.expanduser()
            case "sqlite":
                return storage.path.parent if storage.path else self.data_dir.expanduser()
            case "postgresql" | "memory":
                return None
            case _:
                assert_never(storage.scheme)

    @property
    def storage_place(self) -> str:
        """Where the sessions are, as text without a password: the same for the same place."""
        storage, directory = self.storage, self.storage_dir
        if directory is None:
            return str(storage)
        return f"{storage.scheme}:{os.path.realpath(self.sqlite_file or directory)}"

    @property
    def sqlite_file(self) -> Path | None:
        """The file of the database of `sqlite:`; None with another store."""
        storage = self.storage
        if storage.scheme != "sqlite":
            return None
        return storage.path or self.data_dir.expanduser() / "sessions.db"

    @property
    def keys_path(self) -> Path | None:
        """The path of the keys file; None if the store has no directory and no path is set."""
        return self._kept_in(self.api_keys_file, "keys.json")

    @property
    def keeps_keys_in_store(self) -> bool:
        """Whether the store keeps the API keys; `keys_path` is then only taken over."""
        return self.storage.scheme == "postgresql" and self.api_keys_file is None

    @property
    def ticket_secret_path(self) -> Path | None:
        """The path of the ticket secret; None if the store has no directory."""
        return self._kept_in(None, "ticket-secret")

    @property
    def audit_path(self) -> Path | None:
        """The path of the audit log; None if the store has no directory and no path is set."""
        return self._kept_in(self.audit_log, "audit.jsonl")

    def _kept_in(self, named: Path | None, file_name: str) -> Path | None:
        if named is not None:
            return named.expanduser()
        if self.storage.scheme == "memory":
            return None
        return self.data_dir.expanduser() / file_name

    @field_validator("storage_url")
    @classmethod
    def _storage_url(cls, value: str) -> str:
        StorageUrl.parse(value)
        return value

    @field_validator("bus_url")
    @classmethod
    def _bus_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if not value:
            return None
        check_bus_url(value)
        storage_url = info.data.get("storage_url")  # missing when its value is wrong
        if storage_url and (scheme := StorageUrl.parse(storage_url).scheme) != "postgresql":
            raise ValueError(
                f"a bus is for gateways that share a PostgreSQL database, and storage_url is "
                f"`{scheme}:`, which one process uses alone; remove bus_url"
            )
        return value

    @field_validator("data_dir")
    @classmethod
    def _no_storage_url(cls, value: Path) -> Path:
        if url := _STORAGE_URL.fullmatch(value.as_posix()):
            # The rest of another store's URL may have a password.
            hint = url[1] if url[1] in {"jsonl:", "sqlite:", "memory:"} else f"{url[1]}…"
            raise ValueError(
                f'this is a storage URL and not a directory; write storage_url="{hint}"'
            )
        return value

    @field_validator("api_keys", "cors_origins", "trusted_proxies", "wires", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("webhook_retry_seconds", mode="before")
    @classmethod
    def _waits(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("webhook_retry_seconds")
    @classmethod
    def _some_waits(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < wait <= _RETRY_SECONDS_MAX for wait in value):
            raise ValueError("give some waits above 0, each of 7 days at most")
        return value

    @field_validator("wires")
    @classmethod
    def _known_wires(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            if each not in WIRES:
                raise ValueError(f"there is no wire {each!r}; there is {', '.join(WIRES)}")
        return tuple(dict.fromkeys(value))

    @field_validator("root_path")
    @classmethod
    def _root_path(cls, value: str) -> str:
        return check_prefix(value) if value else value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for each in value:
            try:
                ip_network(each)
            except ValueError as error:
                raise ValueError(
                    f"{each!r} is no address or network, like 127.0.0.1 or 10.0.0.0/8"
                ) from error
        return value

    @field_validator("max_active_sessions_per_user")
    @classmethod
    def _share_of_places(cls, value: int | None, info: ValidationInfo) -> int | None:
        places = info.data.get("max_active_sessions")  # missing when its value is wrong
        return value if value is not None or places is None else -(-places // 4)

    @field_validator("rate_limit_per_caller", "rate_limit_in_all", "auth_failures_per_address")
    @classmethod
    def _rates(cls, value: str | None) -> str | None:
        if not value:
            return None
        try:
            limits = parse_many(value)
        except ValueError as error:
            raise ValueError("not a rate, like `100/second; 2000/minute`") from error
        windows = {limit.get_expiry() for limit in limits}
        if len(windows) < len(limits) or not all(limit.amount for limit in limits):
            raise ValueError("each rate is above 0 and has a window of its own")
        return value

    @field_validator("agents")
    @classmethod
    def _default_agent(cls, value: dict[str, str]) -> dict[str, str]:
        if "external" in value:
            raise ValueError("the name `external` is reserved for runs of external programs")
        return value


class SettingsError(Exception):
    """A setting is wrong; the message is one line that names it."""


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """Read the settings: `flags` (None = not given), then the environment, then `config`.

    Raises:
        SettingsError: The file cannot be read, a name is unknown, or a value is wrong.
    """
    settings, faults = examine_settings(config, **flags)
    if settings is None or faults:
        raise SettingsError(faults[0])
    return settings


def examine_settings(config: Path | None = None, **flags: Any) -> tuple[Settings | None, list[str]]:
    """Read the settings as `load_settings` does, and return every fault.

    Returns:
        The settings, or None where they have none because of a fault; and one line for each fault,
        which begins with the name of the setting or variable and never has its value.
    """

    class Sources(Settings):
        @classmethod
        @override
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings  # flags, environment and one file suffice
            sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
            if config is not None:
                sources += (TomlConfigSettingsSource(settings_cls, config),)
            return sources

    if config is not None and not config.is_file():
        return None, [f"config: {config} is not a file"]
    try:
        settings = Sources(**_given(flags))
    except ValidationError as error:
        faults = [_fault(one["type"], one["loc"], one["msg"]) for one in error.errors()]
        # Which variables agents read is unknown, when the agents are not.
        return None, faults + _unknown_variables(())
    except (SettingsSourceError, tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        return None, [str(error).replace("\n", " ")]
    return settings, _unknown_variables(settings.agents.values())


Origin = Literal["flag", "environment", "file", "default"]
"""Where the value of a setting comes from."""


def origins(config: Path | None = None, **flags: Any) -> dict[str, Origin]:
    """Return where each setting's value comes from, for settings without a fault."""
    in_file = TomlConfigSettingsSource(Settings, config)() if config is not None else {}
    places: tuple[tuple[Origin, Iterable[str]], ...] = (
        ("flag", _given(flags)),
        ("environment", EnvSettingsSource(Settings)()),
        ("file", in_file),
        ("default", Settings.model_fields),
    )
    return {
        name: next(origin for origin, names in places if name in names)
        for name in Settings.model_fields
    }


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _fault(kind: str, location: tuple[int | str, ...], message: str) -> str:
    name = ".".join(str(part) for part in location) or "settings"
    if kind == "extra_forbidden":
        return f"{name}: there is no such setting{_hint(nearest_name(name, Settings.model_fields))}"
    return f"{name}: {message.removeprefix('Value error, ')}"


def _unknown_variables(agent_urls: Iterable[str]) -> list[str]:
    """Return a line for each `BAMBOO_…` variable that nobody reads: it is a misspelt setting.

    A variable that an agent's URL names (`api_key_env=BAMBOO_MODEL_KEY`) is read by that agent.
    A line has the variable's name and the nearest known one, never its value.
    """
    faults: list[str] = []
    named = {name for url in agent_urls for name in re.findall(rf"\b{_PREFIX}\w+", url)}
    for name, value in os.environ.items():
        if name in named or is_known_variable(name) or _is_service_link(name, value):
            continue
        if name.upper().startswith(_PREFIX):
            known = [*Settings.model_fields, *(one[len(_PREFIX) :] for one in _COMMAND_VARIABLES)]
            nearest = nearest_name(name[len(_PREFIX) :], known)
            hint = _hint(nearest and f"{_PREFIX}{nearest.upper()}")
            faults.append(f"{name}: there is no such variable{hint}")
    return faults


def _is_service_link(name: str, value: str) -> bool:
    """Return whether Kubernetes or Docker has set a variable, for a service called `bamboo…`."""
    return _LINK_NAME.search(name) is not None or _LINK_ADDRESS.match(value) is not None


def is_known_variable(name: str) -> bool:
    """Return whether a setting or a command reads the environment variable `name`.

    The case of a setting's variable does not matter: the environment source ignores it.
    """
    setting = name.lower().removeprefix(_PREFIX.lower())
    return name in _COMMAND_VARIABLES or setting in Settings.model_fields


def _hint(nearest: str | None) -> str:
    return f"; did you mean {nearest}?" if nearest else ""

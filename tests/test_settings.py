"""Names that are no setting: refused with the nearest name there is, never with their value."""

import traceback
from pathlib import Path

import pytest

from bamboo_gateway.settings import Settings, SettingsError, load_settings

SECRET = "sk-very-secret"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"BAMBOO_{name.upper()}", raising=False)


def refusal(config: Path | None = None, **flags: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, **flags)
    (line,) = str(caught.value).splitlines()
    assert SECRET not in line
    return line


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("BAMBOO_MAX_SESIONS", "BAMBOO_MAX_SESSIONS"),
        ("BAMBOO_DATADIR", "BAMBOO_DATA_DIR"),
        ("bamboo_prot", "BAMBOO_PORT"),
        ("BAMBOO_ULR", "BAMBOO_URL"),
        ("BAMBOO_APIKEY", "BAMBOO_API_KEY"),
        ("bamboo_url", "BAMBOO_URL"),
    ],
)
def test_an_unknown_variable_stops_the_start_and_the_nearest_one_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, SECRET)
    assert refusal() == f"{name}: there is no such variable; did you mean {nearest}?"


def test_an_unknown_variable_like_no_other_is_refused_without_a_guess(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAMBOO_FOO", SECRET)
    assert refusal() == "BAMBOO_FOO: there is no such variable"


def test_variables_of_the_commands_and_of_other_programs_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAMBOO_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BAMBOO_API_KEY", SECRET)
    monkeypatch.setenv("BAMBOOZLE", SECRET)
    monkeypatch.setenv("bamboo_port", "8081")
    assert load_settings().port == 8081


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BAMBOO_SERVICE_HOST", "10.0.0.7"),
        ("BAMBOO_SERVICE_PORT_HTTP", "8080"),
        ("BAMBOO_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("BAMBOO_DB_PORT", "tcp://10.0.0.8:5432"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_called_bamboo_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    load_settings()


def test_a_variable_that_an_agents_url_names_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAMBOO_MODEL_KEY", SECRET)
    load_settings(agents={"default": "openai:gpt-x?api_key_env=BAMBOO_MODEL_KEY"})
    refusal(agents={"default": "openai:gpt-x?api_key_env=BAMBOO_MODEL_KEY_2"})


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest(tmp_path: Path) -> None:
    config = tmp_path / "bamboo.toml"
    config.write_text(f'max_sesions = "{SECRET}"', encoding="utf-8")
    assert refusal(config) == "max_sesions: there is no such setting; did you mean max_sessions?"
    config.write_text(f'[qqqqxxxx]\nkey = "{SECRET}"', encoding="utf-8")
    assert refusal(config) == "qqqqxxxx: there is no such setting"


def test_an_unknown_flag_of_an_embedding_program_is_refused_with_the_nearest() -> None:
    line = refusal(durabilty=SECRET)
    assert line == "durabilty: there is no such setting; did you mean durability?"


@pytest.mark.parametrize(
    ("data_dir", "hint"),
    [
        ("memory:", "memory:"),
        ("memory://", "memory:"),
        ("jsonl:", "jsonl:"),
        ("postgres://me:SECRET@host/db", "postgres:…"),
    ],
)
def test_a_data_dir_that_is_a_storage_url_is_refused(data_dir: str, hint: str) -> None:
    """Else the gateway keeps its sessions in a directory of that name."""
    line = refusal(data_dir=data_dir.replace("SECRET", SECRET))
    assert line == (
        f'data_dir: this is a storage URL and not a directory; write storage_url="{hint}"'
    )


@pytest.mark.parametrize("data_dir", ["sessions", "~/a:b", "./x/memory:", "C:/sessions", "a:b"])
def test_a_data_dir_with_a_colon_is_a_directory(data_dir: str) -> None:
    assert load_settings(data_dir=data_dir).data_dir == Path(data_dir)


@pytest.mark.parametrize(
    "storage_url",
    [
        f"postgresql://me:{SECRET}@host/db",
        f"postgres://me:{SECRET}@host/db",
        f"mysql://me:{SECRET}@host/db",
        f"postgresql://me:{SECRET}@[host/db",
    ],
)
def test_the_password_of_a_storage_url_is_never_shown(storage_url: str) -> None:
    try:
        settings = load_settings(storage_url=storage_url)
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error))
    else:
        shown = f"{settings} {settings!r} {settings.storage} {settings.storage!r}"
    assert SECRET not in shown
    # Another setting is wrong: what is said of it says nothing of this one.
    with pytest.raises(SettingsError) as caught:
        load_settings(storage_url=storage_url, port=-1)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


DATABASE = "postgresql://me@host/db"


@pytest.mark.parametrize(
    "bus_url",
    [
        "redis://bus",
        "redis://bus:6379/0",
        "rediss://me:secret@bus:6379/15?ssl_ca_certs=/etc/redis.pem",
        "redis://:secret@[::1]:6379",
    ],
)
def test_a_bus_url_names_a_redis(bus_url: str) -> None:
    assert load_settings(storage_url=DATABASE, bus_url=bus_url).bus_url == bus_url


@pytest.mark.parametrize(
    "bus_url",
    [
        f"http://me:{SECRET}@bus",
        f"redis:me:{SECRET}@bus",
        f"redis://me:{SECRET}@bus:port",
        f"redis://me:{SECRET}@[bus",
        f"redis://me:{SECRET}@bus/name",
        f"redis://me:{SECRET}@bus/0#x",
        f"redis://me:{SECRET}@/0",
        f"redis://me:{SECRET}@bus/0",  # this one is right
    ],
)
def test_a_wrong_bus_url_is_refused_and_its_password_never_shown(bus_url: str) -> None:
    try:
        settings = load_settings(storage_url=DATABASE, bus_url=bus_url)
    except SettingsError as error:
        shown = "".join(traceback.format_exception(error))
        assert "bus_url: " in shown
        assert "`redis://host:6379/0`" in shown
    else:
        assert bus_url.endswith("bus/0")
        shown = f"{settings} {settings!r}"
    assert SECRET not in shown


@pytest.mark.parametrize("storage_url", ["jsonl:", "sqlite:", "memory:"])
def test_a_bus_is_refused_for_a_store_that_one_process_uses_alone(storage_url: str) -> None:
    with pytest.raises(SettingsError, match=f"bus_url: .*`{storage_url}`.*remove bus_url"):
        load_settings(storage_url=storage_url, bus_url="redis://bus")
    assert load_settings(storage_url=storage_url, bus_url="").bus_url is None


@pytest.mark.parametrize(
    ("storage_url", "directory"),
    [
        ("jsonl:", "/data"),
        ("jsonl:/other", "/other"),
        ("sqlite:", "/data"),
        ("sqlite:///other/x.db", "/other"),
        ("postgresql://host/db", None),
        ("memory:", None),
    ],
)
def test_the_directory_of_the_sessions_is_that_of_the_store(
    storage_url: str, directory: str | None
) -> None:
    settings = load_settings(storage_url=storage_url, data_dir=Path("/data"))
    assert settings.storage_dir == (Path(directory) if directory else None)
    # Keys, the ticket secret and the audit log stay in `data_dir`.
    kept = None if storage_url == "memory:" else Path("/data/keys.json")
    assert settings.keys_path == kept


@pytest.mark.parametrize(
    ("root_path", "reason"),
    [
        ("bamboo", "a prefix begins with a slash, like /bamboo"),
        ("http://host/bamboo", "a prefix begins with a slash, like /bamboo"),
        ("/bamboo/", "a prefix ends without a slash, like /bamboo"),
        ("/", "a prefix ends without a slash, like /bamboo"),
        *(
            (bad, "a prefix has segments of letters, digits and `-._~`, none empty, `.` or `..`, ")
            for bad in (
                *("/bam boo", "/bamboo ", "/b?x", "/b#x", "//b", "/a//b", "/a/../b"),
                *("/.", "/b;c", "/b%20c", "/\nb", "/b\n", "/ü", '/b"c', "/b\\c", "/*"),
            )
        ),
        ("/" + 256 * "b", "a prefix has at most 256 characters"),
        ("/api", "the gateway's own paths begin with /api; choose another prefix"),
        ("/docs/x", "the gateway's own paths begin with /docs; choose another prefix"),
    ],
)
def test_a_root_path_that_is_none_is_refused_in_one_line(root_path: str, reason: str) -> None:
    assert refusal(root_path=root_path).startswith(f"root_path: {reason}")


@pytest.mark.parametrize(
    "root_path", ["", "/bamboo", "/a/b", "/apis", "/~me/x-1.2_3", "/" + 255 * "b"]
)
def test_a_root_path_is_a_path(root_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAMBOO_ROOT_PATH", root_path)
    assert load_settings().root_path == root_path


def test_trusted_proxies_are_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAMBOO_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8, fd00::/8,::1")
    assert load_settings().trusted_proxies == ("127.0.0.1", "10.0.0.0/8", "fd00::/8", "::1")


@pytest.mark.parametrize("wrong", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*", "10.0.0"])
def test_a_trusted_proxy_that_is_no_address_is_refused_in_one_line(wrong: str) -> None:
    line = refusal(trusted_proxies=f"127.0.0.1,{wrong}")
    assert line == (
        f"trusted_proxies: {wrong!r} is no address or network, like 127.0.0.1 or 10.0.0.0/8"
    )

"""Which bus the settings name, and what is said when it cannot be used."""

import sys

import pytest

from bamboo_gateway.bus.factory import BusUnusable, make_bus
from bamboo_gateway.bus.redis.bus import RedisBus
from bamboo_gateway.domain.clock import SystemClock
from bamboo_gateway.settings import Settings

SECRET = "very-secret"


def settings(bus_url: str | None) -> Settings:
    return Settings(storage_url="postgresql://host/db", bus_url=bus_url)


def test_without_a_url_there_is_no_bus() -> None:
    assert make_bus(settings(None), SystemClock(), str) is None


def test_a_url_of_a_redis_makes_its_bus() -> None:
    bus = make_bus(
        settings("rediss://me:secret@host:1/2?ssl_check_hostname=no"), SystemClock(), str
    )
    assert isinstance(bus, RedisBus)
    assert not bus.is_up


@pytest.mark.parametrize("query", ["nonsense=1", "ssl_check_hostname=perhaps", "ssl_keyfile=/x"])
def test_options_that_the_library_does_not_take_are_refused(query: str) -> None:
    with pytest.raises(BusUnusable) as refused:
        make_bus(settings(f"redis://me:{SECRET}@host?{query}"), SystemClock(), str)
    assert "bus_url" in refused.value.detail
    assert SECRET not in refused.value.detail


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("bamboo_gateway.bus.redis"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    with pytest.raises(BusUnusable, match=r"pip install 'bamboo-gateway\[redis\]'"):
        make_bus(settings("redis://host"), SystemClock(), str)

"""Makes the bus that `bus_url` names."""

from collections.abc import Callable

from bamboo_gateway.bus.base import Bus
from bamboo_gateway.domain.clock import Clock
from bamboo_gateway.domain.errors import BambooError
from bamboo_gateway.settings import Settings


def make_bus(settings: Settings, clock: Clock, deployment: Callable[[], str]) -> Bus | None:
    """Return the bus of these settings, or None without one; nothing is connected yet.

    Args:
        settings: Name the bus.
        clock: Measures how late notices are.
        deployment: Returns the id of the gateways that share the store, which may change. Several
            deployments may use one Redis: what they say begins with it.

    Raises:
        BusUnusable: The library for it is not installed, or it does not take the URL.
    """
    if settings.bus_url is None:
        return None
    try:
        from bamboo_gateway.bus.redis.bus import RedisBus
    except ImportError as error:
        raise BusUnusable(
            "bus_url names a Redis, and its library is not installed: pip install "
            "'bamboo-gateway[redis]'."
        ) from error
    try:
        return RedisBus(settings.bus_url, clock, deployment)
    except (TypeError, ValueError) as error:
        raise BusUnusable("bus_url has options that the library does not take.") from error


class BusUnusable(BambooError):
    """The bus that `bus_url` names cannot be used."""

    code = "bus_unusable"

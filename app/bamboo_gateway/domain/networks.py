"""Network addresses: the part that identifies a client, and which of them are on the internet."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

_NOT_PUBLIC_4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host: some systems take it for loopback
            "10.0.0.0/8",
            "100.64.0.0/10",  # carriers' NAT
            "127.0.0.0/8",
            "169.254.0.0/16",  # link-local, and the metadata services of clouds
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.31.196.0/24",
            "192.52.193.0/24",
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",
            "192.175.48.0/24",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)
"""The blocks of IANA's special-purpose registry, whether or not it calls them reachable."""

_GLOBAL_6: Final = IPv6Network("2000::/3")
"""All global addresses there are; outside are loopback, local, multicast, and the forms that have
an IPv4 address in them: mapped, compatible, and translated (NAT64)."""

_NOT_PUBLIC_6: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # Teredo, ORCHID, benchmarks
            "2001:db8::/32",
            "2002::/16",  # 6to4: has an IPv4 address in it
            "2620:4f:8000::/48",
            "3fff::/20",
        ),
    )
)


@lru_cache(maxsize=1024)
def network_of(host: str) -> str:
    """Return the address; of IPv6 the /64 network, because one client has all its addresses."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.packed[:8].hex()
    return host


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is a server's on the internet, and of no other kind.

    An IPv6 address that has an IPv4 address in it never is: who translates it, and where to, is not
    known here.
    """
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _NOT_PUBLIC_4)
    if address.scope_id is not None or address not in _GLOBAL_6:
        return False
    return not any(address in block for block in _NOT_PUBLIC_6)

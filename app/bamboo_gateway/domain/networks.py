"""Network addresses, as far as limits per client tell them apart."""

from ipaddress import IPv6Address, ip_address


def network_of(host: str) -> str:
    """Names who is at an address; of IPv6 the network, which is what one client is given."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return address.packed[:8].hex()
    return host

"""URLs and addresses that no webhook is sent to."""

from ipaddress import ip_address

import pytest

from bamboo_gateway.domain.networks import is_public
from bamboo_gateway.domain.webhook_urls import Target, UrlRefusedError, target_of

REFUSED = [
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "//example.com/",
    "https:///x",
    "https://",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com/#there",
    "https://example.com\\@127.0.0.1/",
    "https://exam ple.com/",
    "https://example.com/\tx",
    "https://example.com/\r\nX-Evil: 1",
    "https://example.com:0/",
    "https://example.com:22/",
    "https://example.com:25/",
    "https://example.com:80/",
    "https://example.com:99999/",
    "https://example.com:x/",
    "https://example.com./",
    "https://.example.com/",
    "https://exa..mple.com/",
    "https://exa%6dple.com/",
    "https://-example.com/",
    "https://example.com,127.0.0.1/",
    # Names of private networks.
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://a.localhost/",
    "https://router/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://db.corp/",
    # Every way to write 127.0.0.1, and other addresses of the machine and its network.
    "https://127.0.0.1/",
    "https://127.1/",
    "https://127.0.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.0.0.01/",
    "https://127.0.0.1./",
    "https://①②⑦.0.0.1/",
    "https://127。0。0。1/",
    "https://0/",
    "https://0.0.0.0/",
    "https://10.1.2.3/",
    "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://172.31.255.255/",
    "https://192.0.0.192/",
    "https://192.168.1.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://256.1.1.1/",
    "https://[::1]/",
    "https://[::]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:8.8.8.8]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b:1::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:db8::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[fe80::1%25eth0]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[::1",
    "https://[127.0.0.1]/",
    "https://example.com/" + "x" * 2048,
]


@pytest.mark.parametrize("url", REFUSED)
def test_a_url_that_may_lead_inside_is_refused(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        target_of(url, private=False)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://example.com", Target("https", "example.com", 443)),
        ("https://Example.COM:8443/a?b=c", Target("https", "example.com", 8443)),
        ("https://bücher.example/", Target("https", "xn--bcher-kva.example", 443)),
        ("https://_x.example.com/", Target("https", "_x.example.com", 443)),
        ("https://8.8.8.8/", Target("https", "8.8.8.8", 443)),
        ("https://[2606:4700::1111]:444/", None),
        ("https://[2606:4700::1111]/", Target("https", "2606:4700::1111", 443)),
        ("https://1password.com/", Target("https", "1password.com", 443)),
    ],
)
def test_a_url_of_the_internet_is_understood(url: str, target: Target | None) -> None:
    if target is None:
        with pytest.raises(UrlRefusedError):
            target_of(url, private=False)
    else:
        assert target_of(url, private=False) == target


@pytest.mark.parametrize(
    "url",
    ["http://localhost:8000/", "http://127.0.0.1/", "https://router/", "http://[::1]:1/x"],
)
def test_with_the_setting_private_servers_may_be_named(url: str) -> None:
    assert target_of(url, private=True).host


@pytest.mark.parametrize("url", ["http://0177.0.0.1/", "http://a@b/", "gopher://x/", "http://a:0/"])
def test_with_the_setting_a_url_still_has_to_be_one(url: str) -> None:
    with pytest.raises(UrlRefusedError):
        target_of(url, private=True)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("9.255.255.255", True),
        ("10.0.0.0", False),
        ("11.0.0.0", True),
        ("100.63.255.255", True),
        ("100.127.255.255", False),
        ("100.128.0.0", True),
        ("169.254.0.0", False),
        ("172.15.255.255", True),
        ("172.32.0.0", True),
        ("192.88.99.1", False),
        ("223.255.255.255", True),
        ("2000::", True),
        ("2001:1ff:ffff::", False),
        ("2001:200::", True),
        ("2003::", True),
        ("3fff:1::", False),
        ("4000::", False),
        ("5f00::1", False),
        ("2606:4700::1%1", False),
    ],
)
def test_the_edges_of_what_is_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


def test_nothing_that_python_calls_private_is_public() -> None:
    """A second list, made by others."""
    for first in range(256):
        for second in (0, 18, 19, 51, 64, 88, 127, 168, 175, 254, 255):
            address = ip_address(f"{first}.{second}.99.1")
            assert not is_public(address) or (address.is_global and not address.is_multicast)

"""The page of conformance names the clients, versions and exceptions that there are."""

import re

from tests.wires.conformance import PACKAGES, PAGE, refreshed, version_of
from tests.wires.contract.clients import CLIENTS


def test_the_page_has_the_pinned_versions_and_all_exceptions() -> None:
    page = PAGE.read_text("utf-8")
    assert page == refreshed(page), "run `make conformance`"


def test_the_page_has_results_of_every_client_and_no_failure() -> None:
    _, _, results = PAGE.read_text("utf-8").partition("<!-- conformance: results -->")
    rows = results.partition("<!-- end of conformance -->")[0].splitlines()
    for client in CLIENTS:
        [row] = [row for row in rows if row.startswith(f"| {client.wire} | {client.name} |")]
        assert "passed" in row
        assert "failed" not in row


def test_the_names_of_clients_have_the_versions_that_are_pinned() -> None:
    pinned = {version_of(package) for package in PACKAGES}
    for client in CLIENTS:
        if client.wire != "native":
            [version] = re.findall(r"\b\d+\.\d+\.\d+\b", client.name)
            assert version in pinned, client

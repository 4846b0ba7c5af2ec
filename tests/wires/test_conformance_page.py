"""The page of conformance names the clients, versions and exceptions that there are."""

from tests.wires.conformance import PAGE, refreshed
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

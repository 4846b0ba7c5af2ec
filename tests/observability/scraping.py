"""What Prometheus would see of a gateway, read by its own client library's parser."""

from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.api.serving import SECONDS, Served
from tests.support.clients import local_request


class Series(NamedTuple):
    """One sample's name and labels."""

    name: str
    labels: tuple[tuple[str, str], ...]


class Scrape:
    """The answer of `/metrics` at one moment."""

    def __init__(self, served: Served) -> None:
        self.text = local_request("GET", f"{served.url}/metrics", timeout=SECONDS).text
        self.kinds = {
            family.name: family.type for family in text_string_to_metric_families(self.text)
        }
        self.values = {
            Series(sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        }

    def get(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of that name (without `bamboo_`) that have these labels."""
        wanted = set(labels.items())
        return sum(
            value
            for series, value in self.values.items()
            if series.name == f"bamboo_{name}" and wanted <= set(series.labels)
        )

    def own(self) -> Iterator[Series]:
        """Return the series of the gateway, without those of its process."""
        return (series for series in self.values if series.name.startswith("bamboo_"))

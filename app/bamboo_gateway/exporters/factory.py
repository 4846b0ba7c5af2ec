"""Make the exporter of a format. A new format is one file, and one case here."""

from typing import Final

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.exporters.base import Exporter

EXPORT_FORMATS: Final = ("markdown", "json", "yaml")


def make_exporter(name: str) -> Exporter:
    """Make an exporter for one document.

    Raises:
        InvalidInput: There is no such format.
    """
    match name:
        case "markdown":
            from bamboo_gateway.exporters.markdown import MarkdownExporter

            return MarkdownExporter()
        case "json":
            from bamboo_gateway.exporters.json import JsonExporter

            return JsonExporter()
        case "yaml":
            from bamboo_gateway.exporters.yaml import YamlExporter

            return YamlExporter()
        case _:
            known = ", ".join(EXPORT_FORMATS)
            raise InvalidInput(f"No such export format; use one of {known}.")

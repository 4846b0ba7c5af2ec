"""From a format's name to its exporter. A format is one file and one case here."""

from typing import Final

from app.domain.errors import InvalidInput
from app.exporters.base import Exporter

EXPORT_FORMATS: Final = ("markdown", "json", "yaml")


def make_exporter(name: str) -> Exporter:
    """Makes an exporter for one document.

    Raises:
        InvalidInput: No such format.
    """
    match name:
        case "markdown":
            from app.exporters.markdown import MarkdownExporter

            return MarkdownExporter()
        case "json":
            from app.exporters.json import JsonExporter

            return JsonExporter()
        case "yaml":
            from app.exporters.yaml import YamlExporter

            return YamlExporter()
        case _:
            known = ", ".join(EXPORT_FORMATS)
            raise InvalidInput(f"No such export format; use one of {known}.")

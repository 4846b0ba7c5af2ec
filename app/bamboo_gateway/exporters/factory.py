"""Make the exporter of a format, and read documents. A new format is one file, and one case here.

Exporters and readers are imported when a document is written or read: a start needs none of them.
"""

from typing import Final

from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.exporters.base import Exporter
from bamboo_gateway.exporters.imported import ImportedDocument

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


def read_import(data: bytes, format_name: str | None, *, now_ms: int) -> ImportedDocument:
    """Read every session of a document, as `importing.read_import` does; in a worker thread."""
    from bamboo_gateway.exporters import importing

    return importing.read_import(data, format_name, now_ms=now_ms)

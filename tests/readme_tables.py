"""The README's tables, made from the code: settings, commands, routes, error codes, metrics."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.main import get_command

from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.cli import program
from bamboo_gateway.main import openapi_document
from bamboo_gateway.observability.metrics import FAMILIES, PREFIX
from bamboo_gateway.settings import Settings

_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def refresh_tables(page: str) -> str:
    """Gives the page with every table as the code has it now."""
    return _TABLE.sub(lambda match: match[1] + "\n".join(TABLES[match[2]]()) + "\n", page)


def table_names(page: str) -> list[str]:
    """Gives the names of the page's tables."""
    return [name for _, name in _TABLE.findall(page)]


def _settings() -> Iterator[str]:
    yield "| setting | default | |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = _default(field.get_default(call_default_factory=True))
        yield f"| `{name}` | {default} | {field.description} |"


def _default(value: Any) -> str:
    match value:
        case None | ():
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case Path() | str():
            return f"`{value}`"
        case dict():
            return f"`{json.dumps(value)}`"
        case _:
            return f"{value:,}" if value >= 10_000 else f"{value:g}"


def _commands() -> Iterator[str]:
    yield "| command | |"
    yield "|---|---|"
    for name, command in leaves("bamboo", get_command(program)):
        first_paragraph = " ".join((command.help or "").split("\n\n")[0].split())
        words = [_usage(parameter) for parameter in command.params if parameter.name != "help"]
        usage = " ".join([name, *words])
        yield f"| `{usage}` | {first_paragraph} |"


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Gives every command there is, under its full name."""
    children = getattr(command, "commands", None)
    if children is None:
        yield name, command
        return
    for child_name, child in children.items():
        yield from leaves(f"{name} {child_name}", child)


def _usage(parameter: Any) -> str:
    metavar = (parameter.metavar or parameter.name.upper()).replace("|", " or ")
    if parameter.param_type_name == "argument":
        return metavar if parameter.required else f"[{metavar}]"
    flag = max(parameter.opts, key=len)
    return f"[{flag}]" if parameter.is_flag else f"[{flag} {metavar}]"


def _routes() -> Iterator[str]:
    yield "| route | |"
    yield "|---|---|"
    paths: Mapping[str, Any] = json.loads(openapi_document())["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            yield f"| `{method.upper()} {path}` | {operation['summary']} |"


def _errors() -> Iterator[str]:
    yield "| status | `code` | | for example |"
    yield "|---|---|---|---|"
    for code, problem in PROBLEMS.items():
        title = f"{problem.title}; the same request may succeed later" * problem.retryable
        yield f"| {problem.status} | `{code}` | {title or problem.title} | {problem.example} |"


def _metrics() -> Iterator[str]:
    yield "| metric | | labels | |"
    yield "|---|---|---|---|"
    for name, family in FAMILIES.items():
        labels = ", ".join(f"`{label}`" for label in family.labels)
        yield f"| `{PREFIX}{name}` | {family.kind} | {labels} | {family.help} |"


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "settings": _settings,
    "commands": _commands,
    "routes": _routes,
    "errors": _errors,
    "metrics": _metrics,
}

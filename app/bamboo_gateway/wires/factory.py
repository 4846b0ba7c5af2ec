"""Wires by name. A wire's module is imported when the gateway is made with it."""

from collections.abc import Iterable
from importlib import import_module
from typing import Final

from fastapi import APIRouter

from bamboo_gateway.api.error_forms import ErrorForms
from bamboo_gateway.settings import WIRES
from bamboo_gateway.wires.base import Wire

_MODULES: Final = {
    "ag-ui": "bamboo_gateway.wires.ag_ui.wire",
    "ai-sdk": "bamboo_gateway.wires.ai_sdk.wire",
    "durable-streams": "bamboo_gateway.wires.durable_streams.wire",
    "openai": "bamboo_gateway.wires.openai.wire",
}
"""The module of each wire; its `WIRE` is the wire."""


def make_wire(name: str) -> Wire:
    """Return the wire of a name of `settings.WIRES`."""
    wire: Wire = import_module(_MODULES[name]).WIRE
    return wire


def error_forms(names: Iterable[str] = WIRES) -> ErrorForms:
    """Return the forms of errors of these wires."""
    forms = (make_wire(name).error_form for name in names)
    return ErrorForms(tuple(form for form in forms if form is not None))


def wire_routers(names: Iterable[str] = WIRES) -> list[APIRouter]:
    """Return the routers of these wires."""
    return [router for name in names for router in make_wire(name).routers]

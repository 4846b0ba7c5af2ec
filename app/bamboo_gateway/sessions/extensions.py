"""Extension data: which extensions a session has enabled, its todo list, and custom values.

This module reads and changes the session's `extension_data` piece by piece. It keeps members that
it does not know. It refuses known members of a wrong shape, and never resets them. PATCH or an
import may have stored such members: this module does not show them, and they stay until a client
replaces the whole.
"""

from collections.abc import Callable
from typing import Any, Final, NotRequired, TypedDict, TypeGuard

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.errors import InvalidInput, NotFound, TooLarge
from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.sessions.answers import ExtensionData, ExtensionState, TodoState
from bamboo_gateway.sessions.commands import Idempotency
from bamboo_gateway.sessions.metadata import check_sizes, merge_patch
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter
from bamboo_gateway.sessions.transaction import Decision, Transactions

ENABLED: Final = "enabled_extensions"
TODO: Final = "todo_state"
CUSTOM: Final = "custom"

Change = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the extension data after a change. It may change the top level of its argument."""

_EXTENSIONS_MAX = 100
"""Enabled extensions of one session: clients get and search them as a list."""


class _StoredExtension(TypedDict):
    """An extension as it may be stored; it may also have members that nobody knows."""

    name: str
    config: NotRequired[dict[str, Any]]
    enabled: NotRequired[bool]


def extension_view(head: SessionHead) -> ExtensionData:
    """Return the contract's ExtensionData."""
    data = head.extension_data
    enabled, todo, custom = data.get(ENABLED), data.get(TODO), data.get(CUSTOM)
    return {
        ENABLED: _shown(enabled) if _is_enabled(enabled) else [],
        TODO: todo if _is_todo(todo) else None,
        CUSTOM: custom if isinstance(custom, dict) else {},
    }


def named_extension(head: SessionHead, name: str) -> ExtensionState:
    """Return one extension's state.

    Raises:
        NotFound: There is no extension of that name.
    """
    return named_in(extension_view(head), name)


def named_in(data: ExtensionData, name: str) -> ExtensionState:
    """Return one extension's state out of an ExtensionData.

    Raises:
        NotFound: There is no extension of that name.
    """
    for extension in data[ENABLED]:
        if extension["name"] == name:
            return extension
    raise NotFound(f"No extension {name!r} in this session.", code="extension-not-found")


def check_extension_data(data: dict[str, Any]) -> None:
    """Check the members that are known.

    Raises:
        InvalidInput: A member has a wrong shape; `errors` says which.
        TooLarge: The extension data is over its limit.
    """
    check_sizes({"extension_data": data})
    enabled = data.get(ENABLED)
    if enabled is not None:
        _check_enabled(enabled)
    if data.get(TODO) is not None and not _is_todo(data[TODO]):
        raise _wrong(TODO, "must be null or {content: string}")
    if data.get(CUSTOM) is not None and not isinstance(data[CUSTOM], dict):
        raise _wrong(CUSTOM, "must be an object")


def _check_enabled(enabled: Any) -> None:
    if not _is_enabled(enabled):
        raise _wrong(ENABLED, "must be a list of {name: string, config: object, enabled: boolean}")
    if len(enabled) > _EXTENSIONS_MAX:
        raise TooLarge(f"A session may have {_EXTENSIONS_MAX} extensions.")
    names = [extension["name"] for extension in enabled]
    if len(set(names)) != len(names):
        raise _wrong(ENABLED, "must name each extension once")


def _is_enabled(value: Any) -> TypeGuard[list[_StoredExtension]]:
    return isinstance(value, list) and all(
        isinstance(extension, dict)
        and isinstance(extension.get("name"), str)
        and isinstance(extension.get("config", {}), dict)
        and isinstance(extension.get("enabled", True), bool)
        for extension in value
    )


def _is_todo(value: Any) -> TypeGuard[TodoState]:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _shown(enabled: list[_StoredExtension]) -> list[ExtensionState]:
    return [{"config": {}, "enabled": True, **extension} for extension in enabled]


def _wrong(member: str, what: str) -> InvalidInput:
    return InvalidInput(
        f"`{member}` {what}.",
        code="invalid-extension-data",
        errors=[{"loc": ["body", member], "msg": what}],
    )


async def change_extensions(
    transactions: Transactions,
    caller: Caller,
    session_id: str,
    change: Change,
    idem: Idempotency | None = None,
) -> ExtensionData:
    """Apply `change` to a copy of the session's extension data, as one event.

    Raises:
        InvalidInput, TooLarge, NotFound: The change, or the check of its result, refuses it.
    """

    def decide(writer: SessionWriter) -> Decision[ExtensionData]:
        present = writer.head.extension_data
        changed = change(dict(present))
        check_extension_data(changed)
        after = writer.head.copy()
        after.extension_data = changed
        drafts = [Draft("extensions_updated", {"extension_data": changed})]
        return Decision(drafts if changed != present else [], extension_view(after))

    return (await transactions.run(caller, session_id, decide, idem=idem)).answer


def replace_all(new: dict[str, Any]) -> Change:
    """Return the change that replaces all known members."""
    return lambda data: data | {name: new.get(name) for name in (ENABLED, TODO, CUSTOM)}


def merge_all(patch: dict[str, Any]) -> Change:
    """Return the change that applies a JSON merge patch (RFC 7396)."""
    return lambda data: dict(merge_patch(data, patch))


def put_extension(name: str, config: dict[str, Any], *, enabled: bool) -> Change:
    """Return the change that sets one extension's state."""
    state = {"name": name, "config": config, "enabled": enabled}

    def change(data: dict[str, Any]) -> dict[str, Any]:
        present = data.get(ENABLED)
        if present is None:
            present = []
        _check_enabled(present)
        others = list(present)
        names = [extension["name"] for extension in others]
        if name in names:
            others[names.index(name)] = state
        else:
            others.append(state)
        return data | {ENABLED: others}

    return change


def drop_extension(name: str) -> Change:
    """Return the change that removes one extension, which has to exist."""

    def change(data: dict[str, Any]) -> dict[str, Any]:
        present = data.get(ENABLED)
        if not _is_enabled(present):
            present = []
        rest = [extension for extension in present if extension["name"] != name]
        if len(rest) == len(present):
            raise NotFound(f"No extension {name!r} in this session.", code="extension-not-found")
        return data | {ENABLED: rest}

    return change


def put_todo(content: str) -> Change:
    """Return the change that sets the todo list."""
    return lambda data: data | {TODO: {"content": content}}

"""Events of AG-UI that the gateway has no word for: an agent yields them as `custom` events.

The name of such an event is `ag_ui`, its value the AG-UI event: `Custom("ag_ui", {"type":
"STATE_SNAPSHOT", "snapshot": {…}})`. On this wire it is that event; on all others it is a custom
event. What is not exactly an event of the protocol stays a custom event here too, since a client
ends its run over a malformed one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

PROTOCOL_EVENT: Final = "ag_ui"
"""The name of the custom event."""

_POINTER: Final = re.compile(r"(/([^/~]|~[01])*)*", re.DOTALL)
_WITH_VALUE: Final = frozenset({"add", "replace", "test"})
_WITH_FROM: Final = frozenset({"move", "copy"})


def protocol_event(value: Any) -> dict[str, Any] | None:
    """Return the event of the protocol; None when the value is none of those that are taken."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return None
    members = _EVENTS.get(value["type"])
    if members is None:
        return None
    event: dict[str, Any] = {"type": value["type"]}
    for name, (is_valid, is_required) in members.items():
        if name in value:
            if not is_valid(value[name]):
                return None
            event[name] = value[name]
        elif is_required:
            return None
    return event


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_any(value: Any) -> bool:
    del value
    return True


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_patch(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_operation, value))


def _is_operation(value: Any) -> bool:
    if not isinstance(value, dict) or not _is_pointer(value.get("path")):
        return False
    op = value.get("op")
    if op in _WITH_VALUE:
        return "value" in value
    return _is_pointer(value.get("from")) if op in _WITH_FROM else op == "remove"


def _is_pointer(value: Any) -> bool:
    return isinstance(value, str) and _POINTER.fullmatch(value) is not None


_Members = Mapping[str, tuple[Callable[[Any], bool], bool]]

_STEP: Final[_Members] = {"stepName": (_is_text, True)}
_EVENTS: Final[Mapping[str, _Members]] = {
    "STATE_SNAPSHOT": {"snapshot": (_is_any, True)},
    "STATE_DELTA": {"delta": (_is_patch, True)},
    "STEP_STARTED": _STEP,
    "STEP_FINISHED": _STEP,
    "ACTIVITY_SNAPSHOT": {
        "messageId": (_is_text, True),
        "activityType": (_is_text, True),
        "content": (_is_object, True),
        "replace": (_is_bool, False),
    },
    "ACTIVITY_DELTA": {
        "messageId": (_is_text, True),
        "activityType": (_is_text, True),
        "patch": (_is_patch, True),
    },
    "RAW": {"event": (_is_any, True), "source": (_is_text, False)},
}

"""Read the gateway's own exports: exactly what was written, or nothing."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from bamboo_gateway.domain.clock import parse_ms
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidId, InvalidInput
from bamboo_gateway.domain.ids import check_id
from bamboo_gateway.domain.limits import EXTENSION_DATA_BYTES_MAX, METADATA_BYTES_MAX
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SESSION_TYPES
from bamboo_gateway.exporters.document import MARK, VERSION
from bamboo_gateway.exporters.imported import DEPTH_MAX, TITLE_CHARS_MAX, ImportedSession, is_deep

ERRORS_MAX = 20
"""The most errors of one answer: enough to see what is wrong with a document."""

NAME_CHARS_MAX = 60
"""The most characters of a member's name that an error repeats."""

_MEMBERS = frozenset(
    {MARK, "session", "summary", "lineage", "branches", "messages", "message_count"}
)
_MESSAGE_MEMBERS = frozenset(Message.__slots__) | {"parent_id", "branch_id"}
_ROLES = ("system", "user", "assistant", "tool")
_DEFAULTS: dict[str, Any] = {
    "title": None,
    "session_type": "user",
    "working_dir": None,
    "metadata": {},
    "extension_data": {},
}
_TEXTS = ("title", "user_id", "working_dir")
_TIMES = ("created_at", "updated_at", "last_activity_at")


def read_document(value: Any, *, counted: bool) -> ImportedSession:
    """Read a session from the shape that `document` describes.

    Args:
        value: The decoded JSON or YAML.
        counted: Whether `message_count` is required.

    Raises:
        InvalidInput: The value does not have that shape; `errors` lists where. Nothing is imported.
    """
    if not isinstance(value, dict) or MARK not in value:
        raise InvalidInput(f"An export of Bamboo is an object with `{MARK}`.")
    if value[MARK] != VERSION or isinstance(value[MARK], bool):
        raise InvalidInput(f"This export has a version that is not known here; {VERSION} is.")
    found = islice(_errors(value, counted), ERRORS_MAX)
    errors = [{"loc": loc, "msg": msg} for loc, msg in found]
    if errors:
        place = ".".join(map(str, errors[0]["loc"]))
        raise InvalidInput(f"The export is not valid: {place}: {errors[0]['msg']}.", errors=errors)
    # Members keep their order, so that exporting again writes the same bytes.
    session = value["session"] | {
        name: default for name, default in _DEFAULTS.items() if name not in value["session"]
    }
    messages = [
        message if "metadata" in message else message | {"metadata": {}}
        for message in value["messages"]
    ]
    return ImportedSession(
        session, messages, value.get("summary"), value.get("lineage"), value.get("branches")
    )


_Error = tuple[list[str | int], str]


def _errors(value: dict[str, Any], counted: bool) -> Iterator[_Error]:
    for name in value.keys() - _MEMBERS:
        yield [name[:NAME_CHARS_MAX]], "is not a member of an export"
    if not isinstance(value.get("branches"), dict | None):
        yield ["branches"], "must be an object or null"
    yield from _bounded(value.get("branches"), ["branches"], None)
    for name in ("summary", "lineage"):
        if not isinstance(value.get(name), dict | None):
            yield [name], "must be an object or null"
        elif value.get(name) is not None:
            yield from _bounded(value[name], [name], EXTENSION_DATA_BYTES_MAX)
    if not isinstance(value.get("session"), dict):
        yield ["session"], "must be an object"
    else:
        for loc, msg in _session_errors(value["session"]):
            yield ["session", *loc], msg
    messages = value.get("messages")
    if not isinstance(messages, list):
        yield ["messages"], "must be a list"
        return
    count = value.get("message_count")
    if count != len(messages) and (counted or count is not None):
        yield ["message_count"], f"is not the number of messages, {len(messages)}: it may be cut"
    for index, message in enumerate(messages):
        for loc, msg in _message_errors(message):
            yield ["messages", index, *loc], msg


def _session_errors(session: dict[str, Any]) -> Iterator[_Error]:
    if "id" in session and not _is_id(session["id"]):
        yield ["id"], "is not a session id"
    for name in _TEXTS:
        if not isinstance(session.get(name), str | None):
            yield [name], "must be a string or null"
    if len(str(session.get("title") or "")) > TITLE_CHARS_MAX:
        yield ["title"], f"has more than {TITLE_CHARS_MAX} characters"
    if session.get("session_type", "user") not in SESSION_TYPES:
        yield ["session_type"], f"must be one of {', '.join(SESSION_TYPES)}"
    for name in _TIMES:
        if (name in session or name == "created_at") and not _is_time(session.get(name)):
            yield [name], "must be an RFC 3339 time"
    ttl = session.get("ttl_seconds")
    if ttl is not None and (type(ttl) is not int or ttl < 1):
        yield ["ttl_seconds"], "must be a whole number of seconds or null"
    if not isinstance(session.get("parent"), dict | None):
        yield ["parent"], "must be an object or null"
    yield from _data_errors(session)


def _data_errors(session: dict[str, Any]) -> Iterator[_Error]:
    bounds = {"metadata": METADATA_BYTES_MAX, "extension_data": EXTENSION_DATA_BYTES_MAX}
    for name, bytes_max in bounds.items():
        if name in session and not isinstance(session[name], dict):
            yield [name], "is an object"
        elif name in session:
            yield from _bounded(session[name], [name], bytes_max)


def _message_errors(message: Any) -> Iterator[_Error]:
    if not isinstance(message, dict):
        yield [], "must be an object"
        return
    if not _is_id(message.get("id")):
        yield ["id"], "is not a message id"
    yield from _member_errors(message)
    yield from _bounded(message, [], None)


def _member_errors(message: dict[str, Any]) -> Iterator[_Error]:
    for name in message.keys() - _MESSAGE_MEMBERS:
        yield [name[:NAME_CHARS_MAX]], "is not a member of a message"
    if message.get("role") not in _ROLES:
        yield ["role"], "must be system, user, assistant or tool"
    if not isinstance(content := message.get("content"), str) and not _are_parts(content):
        yield ["content"], "must be a string or a list of parts"
    if not _is_time(message.get("created_at")):
        yield ["created_at"], "must be an RFC 3339 time"
    if message.get("status", "complete") not in ("complete", "incomplete"):
        yield ["status"], "must be complete or incomplete"
    for name in ("tool_call_id", "run_id", "model", "copied_from", "parent_id", "branch_id"):
        if not isinstance(message.get(name), str | None):
            yield [name], "must be a string"
    if not _are_calls(message.get("tool_calls")):
        yield ["tool_calls"], "must be a list of {id, name, arguments}"
    for name in ("usage", "metadata"):
        if name in message and not isinstance(message[name], dict):
            yield [name], "is an object"


def _bounded(value: Any, loc: list[str | int], bytes_max: int | None) -> Iterator[_Error]:
    if is_deep(value):
        yield loc, f"nests deeper than {DEPTH_MAX}"
    elif bytes_max is not None and len(encode(value)) > bytes_max:
        yield loc, f"has more than {bytes_max} bytes"


def _is_id(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(check_id(value))
    except InvalidId:
        return False


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and parse_ms(value) >= 0
    except (ValueError, OverflowError):
        return False


def _are_parts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in value
    )


def _are_calls(value: Any) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and all(
        isinstance(call, dict)
        and isinstance(call.get("id"), str)
        and isinstance(call.get("name"), str)
        and isinstance(call.get("arguments"), dict | str)
        for call in value
    )

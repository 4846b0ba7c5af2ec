"""Ask in the terminal what an agent asks people, and make the answer of what was typed."""

from collections.abc import Callable, Mapping
from typing import Any

from bamboo_gateway.cli.output import harmless, notice, one_line, write
from bamboo_gateway.domain import codec

QUESTION_STYLE = "bold yellow"
_YES = frozenset({"y", "yes"})
_NO = frozenset({"n", "no"})

Read = Callable[[str], str]
"""Reads a line after a prompt, as `input` does; raises `EOFError` at the end."""


def ask(request: Mapping[str, Any], read: Read = input) -> Any:
    """Ask one open request; return the answer.

    Args:
        request: An entry of `GET /inputs`, or an `input_required` event.
        read: Reads what is typed.

    Raises:
        EOFError, KeyboardInterrupt: The user does not answer.
    """
    write(request["prompt"] + "\n", QUESTION_STYLE)
    schema = request.get("schema") or {}
    match request["kind"]:
        case "approval":
            return _approval(read)
        case "form":
            return _form(schema, read)
        case _:
            return _value(schema or {"type": "string"}, "answer", read)


def _approval(read: Read) -> dict[str, Any]:
    if _yes_or_no("approve? [y/n] ", read):
        return {"approved": True}
    reason = read("reason (may be empty): ").strip()
    return {"approved": False, "reason": reason} if reason else {"approved": False}


def _form(schema: Mapping[str, Any], read: Read) -> Any:
    fields = schema.get("properties")
    if not isinstance(fields, dict) or not fields:
        return _json("answer (a JSON object)", read)
    required = schema.get("required") or ()
    answer: dict[str, Any] = {}
    for name, field in fields.items():
        one = field if isinstance(field, dict) else {}
        value = _value(one, str(one.get("title") or name), read, optional=name not in required)
        if value is not None:
            answer[name] = value
    return answer


def _value(schema: Mapping[str, Any], name: str, read: Read, *, optional: bool = False) -> Any:
    label = one_line(harmless(name), 80) + (" (may be empty)" if optional else "")
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return _choice(choices, label, read, optional=optional)
    match schema.get("type"):
        case "string":
            text = read(f"{label}: ")
            return None if optional and not text else text
        case "boolean":
            return _yes_or_no(f"{label} [y/n] ", read)
        case _:
            return _json(label, read, optional=optional)


def _choice(choices: list[Any], label: str, read: Read, *, optional: bool) -> Any:
    for number, choice in enumerate(choices, 1):
        text = choice if isinstance(choice, str) else codec.encode(choice).decode()
        write(f"  {number}. {text}\n")
    while True:
        typed = read(f"{label} [1-{len(choices)}]: ").strip()
        if optional and not typed:
            return None
        if typed.isdecimal() and 1 <= int(typed) <= len(choices):
            return choices[int(typed) - 1]
        if typed in choices:
            return typed


def _yes_or_no(prompt: str, read: Read) -> bool:
    while True:
        typed = read(prompt).strip().lower()
        if typed in _YES:
            return True
        if typed in _NO:
            return False


def _json(label: str, read: Read, *, optional: bool = False) -> Any:
    while True:
        typed = read(f"{label} (JSON): ").strip()
        if optional and not typed:
            return None
        try:
            return codec.decode(typed)
        except ValueError:
            notice('That is no JSON, like 7, true, [1, 2] or {"a": 1}.')

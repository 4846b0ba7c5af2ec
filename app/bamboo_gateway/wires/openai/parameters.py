"""The parameters of `POST /responses`: which the gateway has, and what they are for an agent.

A parameter with the value that it has anyway says nothing. Any other value goes to the agent as an
option, which the operator has to allow (`allow` in the agent's URL); what no agent has is refused
by its name. Hints for OpenAI's own caches and billing are taken and say nothing here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bamboo_gateway.domain.client_tools import ClientTool
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.limits import KiB
from bamboo_gateway.sessions.answers import AgentView
from bamboo_gateway.wires.client_messages import client_tool
from bamboo_gateway.wires.openai.errors import unsupported, wrong

ASKED_BYTES_MAX: Final = 256 * KiB
"""The most bytes of a request's parameters, which the log keeps beside its input."""

METADATA_PAIRS_MAX: Final = 16
METADATA_KEY_CHARS_MAX: Final = 64
METADATA_VALUE_CHARS_MAX: Final = 512
"""OpenAI's own limits of `metadata`."""

_ELSEWHERE: Final = frozenset(
    {"model", "input", "stream", "conversation", "previous_response_id", "store", "background"}
)
_HINTS: Final = frozenset(
    {
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "prompt_cache_options",
        "stream_options",
    }
)
_ONLY: Final[Mapping[str, tuple[Any, ...]]] = {
    "service_tier": ("auto", "default"),
    "truncation": ("auto", "disabled"),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "max_tool_calls": (),
    "prompt": (),
    "moderation": (),
    "context_management": ([],),
    "image": (),
    "access_programs": (),
}
"""Parameters that no agent has, each with the values that say nothing."""

_INCLUDED: Final = frozenset({"reasoning.encrypted_content"})
"""What may be in `include`: clients ask for it by themselves, and go on without it."""

_KEPT: Final = (
    "instructions",
    "temperature",
    "top_p",
    "max_output_tokens",
    "parallel_tool_calls",
    "tool_choice",
    "truncation",
    "safety_identifier",
    "prompt_cache_key",
)


@dataclass(slots=True)
class Parameters:
    """What the parameters of a request are.

    Attributes:
        options: For the agent.
        tools: The tools that the client runs.
        asked: What the response shows of them, and the log keeps.
    """

    options: dict[str, Any] = field(default_factory=dict)
    tools: tuple[ClientTool, ...] = ()
    asked: dict[str, Any] = field(default_factory=dict)


def read_parameters(body: Mapping[str, Any], agent: AgentView | None) -> Parameters:
    """Read the parameters of a request.

    Args:
        body: The request.
        agent: Who answers; None: there is no such agent, which the chat says.

    Raises:
        InvalidInput: `errors` names the parameter that is wrong, or that there is not.
    """
    found = Parameters()
    known = dict(agent["options"].get("properties") or {}) if agent is not None else {}
    for name, value in body.items():
        if value is None or name in _ELSEWHERE | _HINTS:
            continue
        if name in _ONLY:
            if value not in _ONLY[name]:
                raise unsupported(name, "is not a parameter that agents of this gateway have.")
        elif name not in _READERS:
            raise unsupported(name, "is not known.")
        else:
            _READERS[name](value, found, known)
    for name in _KEPT:
        if body.get(name) is not None:
            found.asked[name] = body[name]
    if body.get("tool_choice") == "none":
        found.tools = ()
    if len(encode(found.asked)) > ASKED_BYTES_MAX:
        raise wrong("instructions", f"has, with all others, more than {ASKED_BYTES_MAX} bytes.")
    return found


def may_instruct(agent: AgentView) -> bool:
    """Return whether clients may instruct an agent: `allow` names the option `system`."""
    options = agent["options"]
    return "system" in options.get("properties", {}) or bool(options.get("additionalProperties"))


def _instructions(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if not isinstance(value, str):
        raise wrong("instructions", "is not a text.")
    if value:
        found.options["system"] = value


def _sampling(name: str) -> Any:
    def read(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
        del known
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(name, "is not a number.")
        if value != 1:
            found.options[name] = value

    return read


def _max_tokens(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong("max_output_tokens", "is not a number of tokens.")
    newer = "max_completion_tokens"
    found.options[newer if newer in known else "max_tokens"] = value


def _parallel(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if not isinstance(value, bool):
        raise wrong("parallel_tool_calls", "is not a boolean.")
    if not value:
        found.options["parallel_tool_calls"] = False


def _reasoning(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if not isinstance(value, dict):
        raise wrong("reasoning", "is not an object.")
    for name, given in value.items():
        if name == "effort":
            if given is not None:
                found.options["reasoning_effort"] = given
        elif name not in {"summary", "generate_summary"}:
            raise unsupported(f"reasoning.{name}", "is not known.")
    found.asked["reasoning"] = {"effort": None, "summary": None, **value}


def _text(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if not isinstance(value, dict):
        raise wrong("text", "is not an object.")
    for name, given in value.items():
        if name == "verbosity" and given not in {None, "medium"}:
            raise unsupported("text.verbosity", "is not known.")
        if name not in {"format", "verbosity"}:
            raise unsupported(f"text.{name}", "is not known.")
    form = value.get("format")
    if form is not None:
        kind = form.get("type") if isinstance(form, dict) else None
        match kind:
            case "text":
                pass
            case "json_object":
                found.options["response_format"] = {"type": kind}
            case "json_schema":
                schema = {name: form[name] for name in form if name != "type"}
                found.options["response_format"] = {"type": kind, kind: schema}
            case _:
                raise wrong("text.format.type", "is none of text, json_object, json_schema.")
        found.asked["text"] = {"format": form}


def _tools(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if not isinstance(value, list):
        raise wrong("tools", "is not a list.")
    tools: list[ClientTool] = []
    shown: list[dict[str, Any]] = []
    for at, given in enumerate(value):
        kind = given.get("type") if isinstance(given, dict) else None
        if kind != "function":
            raise unsupported(f"tools[{at}].type", "is not `function`, the one type that there is.")
        name, words = given.get("name"), given.get("description")
        if not isinstance(name, str):
            raise wrong(f"tools[{at}].name", "is not a text.")
        tools.append(client_tool(name, words, given.get("parameters") or None))
        shown.append(
            {
                "type": "function",
                "name": name,
                "description": words,
                "parameters": given.get("parameters"),
                "strict": bool(given.get("strict")),
            }
        )
    found.tools = tuple(tools)
    if shown:
        found.asked["tools"] = shown


def _tool_choice(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    if value in ("auto", "none"):
        return
    if value == "required":
        found.options["tool_choice"] = value
    elif isinstance(value, dict) and value.get("type") == "function":
        named = {"name": value.get("name")}
        found.options["tool_choice"] = {"type": "function", "function": named}
    else:
        raise unsupported("tool_choice", "is none of auto, none, required and a function.")


def _include(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del found, known
    given: Sequence[Any] = value if isinstance(value, list) else [value]
    for one in given:
        if not isinstance(one, str) or one not in _INCLUDED:
            raise unsupported("include", f"has {str(one)[:80]!r}, which responses do not have.")


def read_metadata(value: Any) -> dict[str, Any]:
    """Read `metadata`: a few short texts.

    Raises:
        InvalidInput: It is something else.
    """
    if not isinstance(value, dict) or len(value) > METADATA_PAIRS_MAX:
        raise wrong("metadata", f"is not an object with at most {METADATA_PAIRS_MAX} members.")
    for name, text in value.items():
        if len(name) > METADATA_KEY_CHARS_MAX:
            raise wrong("metadata", f"has a name of more than {METADATA_KEY_CHARS_MAX} characters.")
        if not isinstance(text, str) or len(text) > METADATA_VALUE_CHARS_MAX:
            raise wrong(
                f"metadata.{name[:METADATA_KEY_CHARS_MAX]}",
                f"is not a text of at most {METADATA_VALUE_CHARS_MAX} characters.",
            )
    return value


def _metadata(value: Any, found: Parameters, known: Mapping[str, Any]) -> None:
    del known
    found.asked["metadata"] = read_metadata(value)


_READERS: Final[Mapping[str, Any]] = {
    "instructions": _instructions,
    "temperature": _sampling("temperature"),
    "top_p": _sampling("top_p"),
    "max_output_tokens": _max_tokens,
    "parallel_tool_calls": _parallel,
    "reasoning": _reasoning,
    "text": _text,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "include": _include,
    "metadata": _metadata,
}

"""The tables of README.md and docs/, made from the code, and the files that these pages show.

A page marks a table with `<!-- table: NAME -->` … `<!-- end of table -->`, and a file with
`<!-- file: PATH -->` before a code block.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

from typer.main import get_command

from bamboo_gateway.agents.openai import _KEY_VARIABLE, _OPENAI_URL, OpenAIOptions, OpenAIQuery
from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.cli import make_program
from bamboo_gateway.domain.events import EVENT_TYPES, AgentEvent
from bamboo_gateway.main import openapi_document
from bamboo_gateway.observability.metrics import FAMILIES, PREFIX
from bamboo_gateway.settings import Settings
from tests.processes import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"

_TABLE = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
_FILE = re.compile(r"(<!-- file: (\S+) -->\n\n?```\w+\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)


def pages() -> list[Path]:
    """Return every page of the documentation, and those at the top of the repository."""
    return [*sorted(REPOSITORY.glob("*.md")), *sorted(DOCS.rglob("*.md"))]


def refresh_tables(page: str) -> str:
    """Return the page with every table, and every file that it shows, as the code has it now."""
    page = _TABLE.sub(lambda match: match[1] + "\n".join(table(match[2])) + "\n", page)
    return _FILE.sub(lambda match: match[1] + (REPOSITORY / match[2]).read_text("utf-8"), page)


def table(name: str) -> Iterator[str]:
    """Return a table's lines. `shape NAME` is a schema of the OpenAPI document."""
    kind, _, schema = name.partition(" ")
    return _shape(schema) if schema else TABLES[kind]()


def table_names(page: str) -> list[str]:
    """Return the names of the page's tables."""
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
        case tuple():
            parts = (one if isinstance(one, str) else f"{one:g}" for one in value)
            return f"`{','.join(parts)}`"
        case dict():
            return f"`{json.dumps(value)}`"
        case _:
            return f"{value:,}" if value >= 10_000 else f"{value:g}"


def _commands() -> Iterator[str]:
    yield "| command | |"
    yield "|---|---|"
    for name, command in leaves("bamboo", get_command(make_program())):
        first_paragraph = " ".join((command.help or "").split("\n\n")[0].split())
        words = [_usage(parameter) for parameter in command.params if parameter.name != "help"]
        usage = " ".join([name, *words])
        yield f"| `{usage}` | {first_paragraph} |"


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield every command, under its full name."""
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
    for path, operations in _openapi()["paths"].items():
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


@cache
def _openapi() -> Any:
    return json.loads(openapi_document())


def _shape(name: str) -> Iterator[str]:
    """Yield the members of one schema of the OpenAPI document."""
    yield "| member | type | |"
    yield "|---|---|---|"
    schema = _openapi()["components"]["schemas"][name]
    for member, value in schema["properties"].items():
        yield f"| `{member}` | {_type(value)} | {value.get('description', '')} |"


def _type(value: Mapping[str, Any]) -> str:
    if alternatives := value.get("anyOf") or value.get("oneOf"):
        # "one or null" is written as the one.
        return " or ".join(dict.fromkeys(_type(one) for one in alternatives)).replace(
            " or null", ", null"
        )
    if reference := value.get("$ref"):
        return str(reference).rpartition("/")[2].removesuffix("Shape")
    if choices := value.get("enum"):
        return ", ".join(f"`{choice}`" for choice in choices)
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    return str(value.get("type", "any"))


# What no class says: the events that agents yield are classes with these fields.
_EVENTS: Mapping[str, str] = {
    "message": "A whole message. It replaces what clients have shown of the deltas with its id. "
    "A `message` that an agent yields gets the id of its deltas, or a new one.",
    "token": "Delta of the assistant's text.",
    "thinking": "Delta of the assistant's reasoning.",
    "tool_start": "A tool call. `arguments` is a string only where the model's text is not JSON.",
    "tool_delta": "Delta of a tool call's arguments or output.",
    "tool_complete": "A tool call's result: `{success, content}`.",
    "tool_error": "A tool call failed.",
    "run_queued": "A run waits, with its input.",
    "run_start": "A run has begun; `message_ids` names its input.",
    "complete": "Terminal: the run completed.",
    "error": "Terminal: the run failed. `code` is `interrupted` when the gateway ended first.",
    "cancelled": "Terminal: the run was cancelled.",
    "input_required": "The run asks people. It ends with `complete`, `input_required`, and the "
    "next run gets the answers.",
    "input_given": "A request was answered; `run_id` is the run that starts with it, if one does.",
    "input_closed": "A request ended without an answer: `superseded`, `cancelled` or `expired`.",
    "state_change": "The session was closed, reopened, expired or archived.",
    "session_created": "The session's first event.",
    "session_updated": "The session's metadata changed.",
    "session_forked": "The session is a fork of another one.",
    "session_merged": "Another session was merged into this one.",
    "summary_saved": "The session's summary was saved or deleted.",
    "branch_started": "A branch has begun behind a message (null: before the first one) and is the "
    "current one. Clients cut what they show behind that message.",
    "branch_selected": "Another branch is the current one. Clients load the messages again.",
    "message_hidden": "The last message was taken back: the branch that began just before is "
    "without it.",
    "run_hidden": "A client has deleted the response of a run, in a protocol that shows runs by "
    "themselves.",
    "extensions_updated": "The session's extension data changed.",
    "session_shared": "The session was shared; without the token. Clients may ignore it.",
    "share_revoked": "A share ended. Clients may ignore it.",
    "custom": "Anything that an agent or a program tells its front end.",
}
_GATEWAY_FIELDS: Mapping[str, tuple[str, ...]] = {
    "run_queued": ("agent", "messages"),
    "run_start": ("agent", "message_ids", "request_ids?", "tool_call_ids?"),
    "input_given": ("request_id", "answer", "user_id", "run_id?", "position"),
    "input_closed": ("request_id", "reason"),
    "state_change": ("from", "to"),
    "branch_started": ("branch_id", "from_message_id", "parent_branch_id", "path"),
    "branch_selected": ("branch_id",),
    "message_hidden": ("message_id",),
    "run_hidden": ("run_id",),
    "session_shared": ("share",),
    "share_revoked": ("share_id",),
}


def _events() -> Iterator[str]:
    yield "| `type` | further fields | |"
    yield "|---|---|---|"
    of_agents = {
        one.__dataclass_fields__["type"].default: [field.name for field in fields(one)][:-1]
        for one in get_args(AgentEvent)
    }
    if unknown := EVENT_TYPES ^ _EVENTS.keys():
        raise LookupError(f"tests/docs_tables.py: _EVENTS and the code differ in {unknown}")
    for name, meaning in _EVENTS.items():
        further = of_agents.get(name) or _GATEWAY_FIELDS.get(name, ("what changed",))
        shown = ", ".join(f"`{one}`" if " " not in one else one for one in further)
        yield f"| `{name}` | {shown} | {meaning} |"


# A field that has a description in the code needs none here.
_OPENAI: Mapping[str, str] = {
    "model": "The model; in the URL it is the part before the query.",
    "allow": "What clients may set in `options`, with bounds.",
    "description": "What the agent does, for lists of agents.",
    "coalesce": "Whether pieces of a text may become one event while the disk is busy.",
    "max_image_bytes": "The largest uploaded picture that is sent; others are only named.",
    "base_url": "The URL before `/chat/completions`.",
    "api_key_env": "The environment variable that holds the key. A server at a `base_url` of its "
    "own may need none.",
    "media_origins": "Origins of images whose addresses are passed on to the server; comma-"
    "separated. Empty: none.",
    "ask_before": "Tools of the client that people approve before they run; comma-separated.",
    "stream_usage": "Ask for the usage. A few servers reject the question.",
    "connect_timeout_seconds": "How long connecting may take.",
    "first_byte_timeout_seconds": "How long the server may think before its first byte.",
    "idle_timeout_seconds": "How long the server may be silent in mid-answer.",
    "retries_max": "Retries after 429 and 5xx, before the first byte only.",
    "system": "Becomes the first message.",
    "temperature": "As the server defines it, 0 to 2.",
    "top_p": "As the server defines it, 0 to 1.",
    "max_tokens": "The most tokens that the answer may have.",
    "max_completion_tokens": "The same, under the name that newer servers use.",
    "seed": "As the server defines it.",
    "reasoning_effort": "As the server defines it.",
    "parallel_tool_calls": "Whether the model may call several tools at once.",
    "context_tokens": "The most tokens that are sent, as the gateway estimates them.",
    "stop": "Texts that end the answer.",
    "tools": "The tools that the client runs.",
    "tool_choice": "Which tool the model has to call.",
    "response_format": "As the server defines it.",
}


def _openai() -> Iterator[str]:
    yield "| name | in the URL's query | in a chat's `options` | default | |"
    yield "|---|---|---|---|---|"
    in_url, in_chat = OpenAIQuery.model_fields, OpenAIOptions.model_fields
    for name, field in {**in_url, **in_chat}.items():
        meaning = field.description or _OPENAI.get(name)
        if meaning is None:
            raise LookupError(f"tests/docs_tables.py: _OPENAI lacks {name!r}")
        places = ["yes" if name in model else "" for model in (in_url, in_chat)]
        yield f"| `{name}` | {' | '.join(places)} | {_openai_default(in_url, name)} | {meaning} |"


def _openai_default(model: Mapping[str, Any], name: str) -> str:
    known = {"base_url": _OPENAI_URL, "api_key_env": _KEY_VARIABLE, "media_origins": "*"}
    if name in known:
        return f"`{known[name]}`"
    return _default(model[name].default) if name in model else ""


TABLES: Mapping[str, Callable[[], Iterator[str]]] = {
    "settings": _settings,
    "commands": _commands,
    "routes": _routes,
    "errors": _errors,
    "metrics": _metrics,
    "events": _events,
    "openai": _openai,
}

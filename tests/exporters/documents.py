"""Sessions to export, and how: one document from pages of messages."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

from bamboo_gateway.exporters.base import DocumentHead, ExportSource
from bamboo_gateway.exporters.factory import make_exporter

SESSION: dict[str, Any] = {
    "id": "s-1",
    "title": "Plan a trip",
    "user_id": "u-1",
    "session_type": "user",
    "state": "idle",
    "working_dir": "/home/ann",
    "created_at": "2026-11-20T17:25:00.123Z",
    "updated_at": "2026-11-20T17:26:00.000Z",
    "last_activity_at": "2026-11-20T17:26:00.000Z",
    "expires_at": None,
    "ttl_seconds": None,
    "message_count": 4,
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "metadata": {"colour": "no"},
    "extension_data": {"todo": {"content": "- [ ] pack"}},
    "parent": {"session_id": "s-0", "message_id": "m-0", "position": "1-7"},
    "position": "1763661234567-9",
    "active_run_id": None,
    "stream_after": "1763661234567-9",
}
SUMMARY = {"session_id": "s-1", "summary": "So far: nothing.", "turn_count": 1, "position": "1-4"}


def message(number: int, role: str, content: Any, **members: Any) -> dict[str, Any]:
    """Return a message in the contract's shape."""
    return {
        "id": f"m-{number}",
        "role": role,
        "content": content,
        "status": "complete",
        "created_at": "2026-11-20T17:25:01.000Z",
        "metadata": {},
    } | members


CALL = {"id": "call-1", "name": "search", "arguments": {"query": "trains"}}
MESSAGES = [
    message(1, "user", "Find me a train."),
    message(2, "assistant", "Looking.", tool_calls=[CALL], model="m-large"),
    message(3, "tool", "08:15 and 09:15", tool_call_id="call-1"),
    message(4, "assistant", "There are two.", metadata={"score": 0.5}),
]


async def pages(messages: Sequence[dict[str, Any]], size: int = 3) -> AsyncGenerator[Any]:
    for start in range(0, len(messages), size):
        yield messages[start : start + size]


async def export(
    name: str,
    session: dict[str, Any] = SESSION,
    messages: Sequence[dict[str, Any]] = MESSAGES,
    **members: Any,
) -> bytes:
    """Export in one go."""
    source = ExportSource(session, pages(messages), **members)
    return b"".join([piece async for piece in make_exporter(name).stream(source)])


def export_now(
    name: str, session: dict[str, Any], messages: Sequence[dict[str, Any]], summary: Any = None
) -> bytes:
    """Export without a loop and threads, for thousands of examples."""
    exporter = make_exporter(name)
    head = exporter.begin(DocumentHead(session, summary, None))
    return head + exporter.add(messages) + exporter.end()


# Strings that YAML, JSON or an editor like to change.
TRAPS = [
    "", " ", "no", "Yes", "null", "~", "true", "1e3", "1E5", "0o7", "0x1f", "1_000", "12:30:45",
    "2026-11-20", "2026-11-20T17:25:00Z", ".inf", ".nan", "-", "- a", "? a", ": a", "a: b", "a #b",
    "#", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a", "'", '"', "[", "{", "---", "...", "=", "<<",
    "\x85", "a\u2028b", "a\u2029b", "\ufeff", "\x7f", "\x9b", "\u202e", "\u200b", "\t", "a\tb",
    "\ta\nb", "\n", "a\n", "a\n\n", "\na", "a\nb", "a\n\nb\n", "  a\nb", "a\n  b\n c", "a \nb",
    "a\r\nb", "\0", "a\n\tb", "a\n...\nb", "a\n---\nb", "a\n# b", "\U0001f600", "e\u0301",
    "\ufffe", "\x1b[0m", "\\", "\\n",
]  # fmt: skip

TEXTS = st.one_of(
    st.sampled_from(TRAPS),
    st.text(max_size=40),
    st.lists(st.sampled_from([*TRAPS, "word", "\n", " "]), max_size=8).map("".join),
    st.sampled_from(["long words \u2028\n" * 20, "long words, and more\n" * 20]),
)
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=10,
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)
PARTS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS),
    st.builds(lambda text: {"type": "thinking", "text": text}, TEXTS),
    st.builds(
        lambda url: {"type": "image", "url": url, "media_type": "image/png", "name": url}, TEXTS
    ),
)
CONTENTS = st.one_of(TEXTS, st.lists(PARTS, min_size=1, max_size=3))


@st.composite
def sessions(draw: Any) -> dict[str, Any]:
    """Sessions as the gateway shows them."""
    return SESSION | {
        "title": draw(st.one_of(st.none(), TEXTS.map(lambda text: text[:1000]))),
        "metadata": draw(OBJECTS),
        "extension_data": draw(OBJECTS),
        "working_dir": draw(st.one_of(st.none(), TEXTS)),
    }


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    """Messages of every kind, each tool exchange whole."""
    return list(_conversation(draw))


def _conversation(draw: Any) -> Iterator[dict[str, Any]]:
    for number in range(draw(st.integers(0, 4))):
        role = draw(st.sampled_from(["system", "user", "assistant"]))
        members: dict[str, Any] = {"metadata": draw(OBJECTS)}
        if role == "assistant" and draw(st.booleans()):
            arguments = draw(st.one_of(OBJECTS, TEXTS))
            members["tool_calls"] = [{"id": f"c{number}", "name": "run", "arguments": arguments}]
        yield message(number * 2, role, draw(CONTENTS), **members)
        if "tool_calls" in members:
            yield message(number * 2 + 1, "tool", draw(TEXTS), tool_call_id=f"c{number}")

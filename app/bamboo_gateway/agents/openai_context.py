"""Keep a Chat Completions request within a budget of tokens by leaving out its oldest turns.

A turn begins with a message of the user and ends before the next one, so that a call is never
separated from its result. The last turn is always kept: it is what has to be answered, and if it is
too long, the server's own error is the better message. System messages are kept as well, because
they contain instructions and the summary; those of dropped turns are joined to the first one.

Tokens are estimated, since every model counts differently: a third of the bytes of a text in UTF-8
(English takes a quarter, Chinese about a third), `_MESSAGE_TOKENS` for each message, and
`_IMAGE_TOKENS` for each image, whatever its size.
"""

from dataclasses import dataclass
from typing import Any

from bamboo_gateway.agents.base import NOTHING_LEFT_OUT, LeftOut
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import Custom

_BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 4
"""The tokens of a message beside its text: its role and delimiters."""
_IMAGE_TOKENS = 1500
"""The tokens of a large image, by the formulas that some models publish."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A conversation without its oldest turns.

    Attributes:
        messages: The remaining messages of the request.
        turns: How many turns were left out.
        dropped: How many messages these turns had.
        tokens: The estimate for the remaining messages.
        is_begun: Whether the first dropped turn was not whole: its user's message had not been
            read.
    """

    messages: Messages
    turns: int
    dropped: int
    tokens: int
    is_begun: bool = False

    def event(self, tokens_max: int, before: LeftOut = NOTHING_LEFT_OUT) -> Custom:
        """Return the event that reports what was left out, including what was not read."""
        counted_twice = self.is_begun and before.turns > 0
        return Custom(
            "context_trimmed",
            {
                "dropped_turns": self.turns + before.turns - counted_twice,
                "dropped_messages": self.dropped + before.messages,
                "estimated_tokens": self.tokens,
                "context_tokens": tokens_max,
            },
        )


def trim(messages: Messages, tokens_max: int, fixed: object = None) -> Trimmed:
    """Leave out the oldest turns until the rest fits or only the last turn is left.

    Args:
        messages: The messages of the request, as `to_openai` returns them.
        tokens_max: The budget.
        fixed: Other parts of the request that count: the tools.
    """
    costs = [_tokens_of(message) for message in messages]
    total = sum(costs) + (_text_tokens(encode(fixed)) if fixed else 0)
    begins = [at for at, message in enumerate(messages) if message["role"] == "user"]
    turns, cut = 0, 0
    # Messages before the user's first one are a turn too, unless all are system messages.
    before = messages[: begins[0]] if begins else []
    is_begun = any(message["role"] != "system" for message in before)
    ends = begins if is_begun else begins[1:]
    for end in ends:
        if total <= tokens_max:
            break
        for at in range(cut, end):
            if messages[at]["role"] != "system":
                total -= costs[at]
        turns, cut = turns + 1, end
    if not turns:
        return Trimmed(messages, 0, 0, total)
    kept = [message for message in messages[:cut] if message["role"] == "system"]
    dropped = cut - len(kept)
    first = [_joined(kept)] if kept else []
    return Trimmed([*first, *messages[cut:]], turns, dropped, total, is_begun)


def _joined(messages: Messages) -> dict[str, Any]:
    return {"role": "system", "content": "\n\n".join(message["content"] for message in messages)}


def _tokens_of(message: dict[str, Any]) -> int:
    tokens = _MESSAGE_TOKENS
    content = message["content"]
    if isinstance(content, str):
        tokens += _text_tokens(content.encode())
    for part in content if isinstance(content, list) else ():
        match part["type"]:
            case "image_url":
                tokens += _IMAGE_TOKENS
            case "text":
                tokens += _text_tokens(part["text"].encode())
            case _:
                tokens += _text_tokens(encode(part))
    if "tool_calls" in message:
        tokens += _text_tokens(encode(message["tool_calls"]))
    return tokens


def _text_tokens(data: bytes) -> int:
    return -(-len(data) // _BYTES_PER_TOKEN)

"""Keeps a Chat Completions request inside a budget of tokens, by leaving out its oldest turns.

A turn begins with a user's message and goes up to the next one, so that no call is ever parted from
its result. The last turn is always kept: without it there is nothing to answer, and the server's
own words about a request that is too long are the better ones. System messages are kept as well,
those of dropped turns in the first one: they say how to answer (and hold the summary).

Tokens are estimated, since every model counts in its own way: a third of a text's bytes in UTF-8,
which is over what English (a quarter) takes and about what Chinese does, `_MESSAGE_TOKENS` for each
message and `_IMAGE_TOKENS` for each image, whatever its size.
"""

from dataclasses import dataclass
from typing import Any

from bamboo_gateway.agents.base import NOTHING_LEFT_OUT, LeftOut
from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.events import Custom

_BYTES_PER_TOKEN = 3
_MESSAGE_TOKENS = 4
"""What a message costs beside its text: its role and its delimiters."""
_IMAGE_TOKENS = 1500
"""A large image costs about so much with the models that publish a formula."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A conversation within its budget, as far as whole turns allow.

    Attributes:
        messages: What is left to be sent.
        turns: How many turns were left out.
        dropped: How many messages of the request they were.
        tokens: The estimate for what is left.
        is_begun: Whether the first of those turns had begun before: its user's message is not
            among the messages.
    """

    messages: Messages
    turns: int
    dropped: int
    tokens: int
    is_begun: bool = False

    def event(self, tokens_max: int, before: LeftOut = NOTHING_LEFT_OUT) -> Custom:
        """Gives the event that says what was left out, also of what was not even read."""
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
    """Leaves out the oldest turns until the rest fits, or is the last turn.

    Args:
        messages: The request's, as `to_openai` gives them.
        tokens_max: The budget.
        fixed: What else is sent with them and counts: the tools.
    """
    costs = [_tokens_of(message) for message in messages]
    total = sum(costs) + (_text_tokens(encode(fixed)) if fixed else 0)
    begins = [at for at, message in enumerate(messages) if message["role"] == "user"]
    turns, cut = 0, 0
    # What stands before the first user's message is a turn too, unless it is only system messages.
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

"""Titles of sessions that got none. A title that somebody gave, or took away, stays as it is.

With `titles = "first_message"` the beginning of the user's first message becomes the title, in the
same commit as the message.
"""

from collections.abc import Sequence

from bamboo_gateway.domain.events import Draft
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.domain.short_text import title_of


def first_message_titles(
    titles: str, head: SessionHead, messages: Sequence[Message]
) -> list[Draft]:
    """Return the event that gives a session the title of its first message, or nothing.

    Args:
        titles: The setting.
        head: The session before the messages.
        messages: What is being said.
    """
    if titles != "first_message" or not is_untitled(head) or head.counts.by_role.get("user"):
        return []
    first = next((message for message in messages if message.role == "user"), None)
    title = title_of(first.text) if first is not None else None
    return [Draft("session_updated", {"title": title})] if title else []


def is_untitled(head: SessionHead) -> bool:
    """Return whether nobody has given the session a title, and nobody has taken one away."""
    return head.title is None and not head.title_given

"""The files that new messages name: looked up, and referred to durably before the decision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bamboo_gateway.domain.callers import Caller
from bamboo_gateway.domain.events import AgentEvent, MessageSaid
from bamboo_gateway.domain.files import FileRecord, files_in
from bamboo_gateway.sessions.commands import NewMessage
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.file_shelf.shelf import resolved
from bamboo_gateway.sessions.streaming.session_writer import SessionWriter


async def named_files(
    context: Context, caller: Caller, writer: SessionWriter, messages: Sequence[NewMessage]
) -> list[NewMessage]:
    """Return messages whose parts have what is known of the files that they name.

    Await it before the step that makes the session ready for a decision. A caller may name files of
    its own, and those that the session names already.

    Raises:
        InvalidInput: A file is unknown or not the caller's, or no picture where one is needed.
        Refused: The session would name too many files.
    """
    if not any(True for message in messages for _ in files_in(message.content)):
        return list(messages)
    contents = await context.files.named(
        writer.id,
        writer.head.files,
        [message.content for message in messages],
        lambda record: caller.is_owner(record.user_id),
    )
    return [
        replace(message, content=content)
        for message, content in zip(messages, contents, strict=True)
    ]


async def known_files(
    context: Context, caller: Caller, writer: SessionWriter, events: Sequence[AgentEvent]
) -> dict[str, FileRecord]:
    """Return the files that posted messages may name, by id. References to them are durable.

    Raises:
        Refused: The session would name too many files.
    """
    ids = [
        one
        for event in events
        if isinstance(event, MessageSaid)
        for one in files_in(event.message.get("content"))
    ]
    if not ids:
        return {}
    return await context.files.look_up(
        writer.id, writer.head.files, ids, lambda record: caller.is_owner(record.user_id)
    )


def with_known_files(event: AgentEvent, known: Mapping[str, FileRecord]) -> AgentEvent:
    """Return a posted event with all members of the parts that name files.

    Raises:
        InvalidInput: A message names a file that is not among the known ones.
    """
    if not isinstance(event, MessageSaid):
        return event
    content: Any = event.message.get("content")
    if not any(True for _ in files_in(content)):
        return event
    return MessageSaid({**event.message, "content": resolved(content, known)})

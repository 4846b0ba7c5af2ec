"""The library in your own process: streams, a lost connection, and the rest of a session's life.

Nothing else has to run:

    .venv/bin/python examples/embedding_session_manager.py DIRECTORY

Sessions are kept in DIRECTORY, and exports are written there.
"""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bamboo_gateway.embedded import EmbeddedGateway, open_gateway


async def main(directory: str) -> None:
    # Sessions leave memory after 5 minutes; for an hour a lost connection can be taken up again.
    settings = {"idle_timeout_seconds": 300, "disconnect_retention_seconds": 3600}
    async with open_gateway(directory, **settings) as gateway:
        session = await gateway.create_session(user_id="user-123", title="Chat Title")
        await converse(gateway, session["id"])
        await branch(gateway, session["id"])
        await put_away(gateway, session["id"], Path(directory) / "chat.md")


async def converse(gateway: EmbeddedGateway, session_id: str) -> None:
    # Connect to the session: an iterator of its events.
    events = await gateway.connect_session(session_id, "conn-001")

    # Add a message, and an event of your own.
    await gateway.add_message(session_id, "Hello!")
    await gateway.append_event(session_id, {"type": "custom", "name": "note", "value": "Hi!"})

    # Receive events.
    for _ in range(2):
        event = await anext(events)
        print(f"{event['seq']}: {event['type']}")

    # The connection is lost while an agent answers. Reconnect, and nothing is missing.
    await gateway.disconnect_session(session_id, "conn-001")
    options = {"text": "I am still here.", "thinking": False, "tool": False, "delay_ms": 0}
    await gateway.chat(session_id, "Are you there?", options=options, wait_seconds=30)
    async with await gateway.reconnect_session(session_id, "conn-001") as events:
        words = ""
        async for event in events:
            if event["type"] == "token":
                words += event["content"]
            if event["type"] == "complete":
                break
    print(f"After the reconnect: {words}")


async def branch(gateway: EmbeddedGateway, session_id: str) -> None:
    # Fork the session after its first message, go on in the fork, and merge it back.
    fork = await gateway.fork_session(session_id, from_message_index=0, new_name="Another way")
    await gateway.add_message(fork["id"], "And if we went left?")
    merged = await gateway.merge_sessions(fork["id"], session_id)
    tree = await gateway.get_session_branch_tree(session_id)
    print(f"{merged['message_count']} messages, {len(tree['branches'])} branch")

    # Resume: a message that carries the session into a new context.
    await gateway.save_summary(session_id, "They greeted each other.")
    resumed = await gateway.build_resume_message(session_id)
    print(f"The resume message says: {'They greeted each other.' in resumed['content']}")

    statistics = await gateway.calculate_statistics(session_id)
    print(f"{statistics['user_messages']} messages of the user's")

    # Archive the fork and whatever else is in a list, each by itself.
    result = await gateway.bulk_archive_sessions([fork["id"], "nobody"])
    print(f"archived {len(result['archived'])}, failed {len(result['failed'])}")
    await gateway.restore_archived_session(fork["id"])


async def put_away(gateway: EmbeddedGateway, session_id: str, file: Path) -> None:
    # Export to a file, then archive.
    size = await gateway.export_session_to_file(session_id, file, include_metadata=False)
    print(f"{file.name} has {'bytes' if size else 'nothing'}")
    await gateway.archive_session(session_id)
    for archived in (await gateway.list_archived_sessions()).sessions:
        print(f"In the archive: {archived['session']['title']}")

    # Clean what has expired; and, by force, what had no activity for a year.
    await gateway.cleanup_expired_data()
    stats = await gateway.force_cleanup(datetime.now(UTC) - timedelta(days=365))
    print(f"cleaned {stats['sessions_cleaned']}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

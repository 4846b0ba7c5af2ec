"""The library in your own process: make a session, add a message, load it again.

Nothing else has to run:

    .venv/bin/python examples/embedding_basic_usage.py [DIRECTORY]

Sessions are kept in DIRECTORY, or in ~/.bamboo/sessions.
"""

import asyncio
import sys

from bamboo_gateway.embedded import open_gateway


async def main(directory: str = "~/.bamboo/sessions") -> None:
    # Open the store; sessions that name no time to live expire after 24 hours.
    async with open_gateway(directory, default_ttl_seconds=86400) as gateway:
        # Create a session.
        session = await gateway.create_session(user_id="user-123", title="My Chat")

        # Add a message.
        await gateway.add_message(session["id"], "Hello!")

        # Load the session.
        loaded = await gateway.get_session(session["id"], include_messages=True)
        print(f"{loaded['title']}: {loaded['messages'][0]['content']}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

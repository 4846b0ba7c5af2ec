"""A front end in a terminal: shows a session as people see it while others talk in it.

    .venv/bin/python examples/python_client_async.py SESSION

It follows the session until Ctrl-C, through restarts of the gateway, and says what it shows.
"""

import asyncio
import os
import sys

from bamboo_gateway_client import AsyncGateway, StreamHooks, text_of


async def follow(session_id: str) -> None:
    hooks = StreamHooks(
        lost=lambda reason, seconds: print(f"(offline: {reason}; again in {seconds:.0f} s)"),
        found=lambda _: print("(online again)"),
    )
    url = os.environ.get("BAMBOO_URL", "http://127.0.0.1:8080")
    async with AsyncGateway(url, os.environ.get("BAMBOO_API_KEY")) as gateway:
        shown = 0
        async for conversation in gateway.session(session_id).follow(hooks=hooks):
            whole = [one for one in conversation.messages if one["status"] == "complete"]
            for message in whole[shown:]:
                print(f"{message['role']}: {text_of(message)}", flush=True)
            shown = len(whole)


if __name__ == "__main__":
    asyncio.run(follow(sys.argv[1]))

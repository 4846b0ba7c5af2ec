"""`bamboo new-agent`: a commented file to start your own agent from."""

from pathlib import Path
from typing import Annotated

import typer

from bamboo_gateway.cli.output import CommandError, ExitCode, print_line

_START = '''\
"""An agent: an async generator of the events of one turn.

    bamboo serve --agent default=python:{module}:answer
    bamboo chat "What is 6 * 7?"

The gateway stores and streams every event, assembles the messages, and ends the run: when this
returns it has completed, when it raises it has failed. Clients that come and go change nothing.
"""

from collections.abc import AsyncIterator

from bamboo_gateway.agents.base import AgentError, Turn
from bamboo_gateway.domain.events import AgentEvent, Thinking, Token, Usage


async def answer(turn: Turn) -> AsyncIterator[AgentEvent | Usage | str]:
    # The conversation, oldest first. The last message is the one to answer. A long conversation may
    # begin with a system message that holds its summary.
    question = turn.messages[-1].text

    # The `options` of the chat: only those that the operator lets clients set, with
    # `python:{module}:answer?allow=language`. The session's own `metadata` is `turn.metadata`.
    language = turn.options.get("language", "en")
    if language != "en":
        # These words and this code reach the client; of any other error only the log has details.
        raise AgentError("This agent speaks English only.", code="unknown_language")

    yield Thinking("Let me work that out.")

    # A tool that runs here: `run` yields its start and its result, or its error.
    call = turn.tool("multiply", {{"text": question}})
    async for event in call.run(multiply):
        yield event

    # Text, in pieces. A plain string is a `Token`. Cancellation arrives at an `await` or a `yield`:
    # let it through, and clean up in `finally`.
    if call.failed:
        yield "I can only multiply two numbers, like 6 * 7."
    else:
        for word in f"That makes {{call.result}}.".split():
            yield Token(word + " ")

    # The cost, if it is known. Several ones are added up.
    yield Usage(prompt_tokens=len(question.split()), completion_tokens=3)


async def multiply(text: str) -> int:
    # A tool is a function of its arguments. A plain one (`def`) runs in a thread.
    left, _, right = text.strip("?!. ").rpartition("*")
    return int(left.split()[-1]) * int(right)
'''


def new_agent(
    file: Annotated[
        Path, typer.Argument(help="The file to write; it must not exist.", metavar="FILE")
    ] = Path("my_agent.py"),
) -> None:
    """Write a commented file to start your own agent from.

    The file is an agent that works, for `bamboo serve --agent default=python:MODULE:answer`.
    """
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise CommandError(
            f"{file}: name it like a Python module, such as my_agent.py", ExitCode.USAGE
        )
    try:
        # "x": never over a file that is there, also when one appears at this moment.
        with file.open("x", encoding="utf-8") as out:
            out.write(_START.format(module=file.stem))
    except FileExistsError as error:
        raise CommandError(f"{file} is there already; nothing was written") from error
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error
    print_line(f"{file} is written. In its directory:")
    print_line(f"  bamboo serve --agent default=python:{file.stem}:answer")
    print_line('  bamboo chat "What is 6 * 7?"')

"""An agent in Python: it knows what was said before, calls a tool, and can be cancelled.

    .venv/bin/bamboo serve --agent default=python:examples.python_agent:answer

The tutorial "Write a Python agent" in docs/ explains it.
"""

from collections.abc import AsyncIterator

import anyio

from bamboo_gateway.agents.base import AgentError, Turn
from bamboo_gateway.domain.events import AgentEvent, Custom, Thinking, Usage

POPULATION = {"tokyo": 14_000_000, "paris": 2_100_000, "oslo": 700_000}


async def answer(turn: Turn) -> AsyncIterator[AgentEvent | Usage | str]:
    question = turn.messages[-1].text
    asked_before = sum(message.role == "user" for message in turn.messages) - 1
    if not question.strip():
        # Clients see these words and this code.
        raise AgentError("Name a city.", code="no_city")

    yield Thinking(f"Looking for a city in {question!r}.")
    city = next((word for word in question.lower().strip("?!. ").split() if word in POPULATION), "")

    # `run` yields the call's start and its result, or its error when the function raises.
    call = turn.tool("population_of", {"city": city})
    async for event in call.run(population_of):
        yield event

    if call.failed:
        yield f"I know {', '.join(sorted(POPULATION))} only."
    else:
        yield Custom("city", {"name": city, "population": call.result})
        for word in f"About {call.result:,} people live in {city.capitalize()}.".split(" "):
            yield word + " "
    yield f"You have asked {asked_before} questions before."
    yield Usage(prompt_tokens=len(question.split()), completion_tokens=12)


async def population_of(city: str) -> int:
    # A cancelled run arrives here, as the cancellation of this `await`.
    await anyio.sleep(0.01)
    return POPULATION[city]

"""What the official Python clients of OpenAI do with a gateway; run with their own environment.

    python openai_python.py ACT BASE_URL

`responses`, `agents` fail loudly, or print one line of JSON: what they have seen. `resume` prints a
line when it has the begin of a stream, waits for one, and goes on with what the gateway is then.
"""

import asyncio
import json
import sys
from typing import Any

import openai

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def responses(client: openai.OpenAI) -> dict[str, Any]:
    assert [one.id for one in client.models.list().data] == ["default"]
    assert client.models.retrieve("default").id == "default"
    plain = client.responses.create(model="default", input="Hello there")
    assert (plain.status, plain.output_text) == ("completed", "Hello there ")
    assert plain.usage is not None
    assert plain.usage.total_tokens == 2
    with client.responses.stream(model="default", input="tools") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    again = client.responses.retrieve(final.id)
    assert {one.id for one in again.output} == {one.id for one in final.output}
    assert again.output_text == final.output_text
    # The helper reads the whole stream again, and leaves out what it was given.
    numbers = [event.sequence_number for event in client.responses.retrieve(final.id, stream=True)]
    assert numbers == sorted(set(numbers))
    half = numbers[len(numbers) // 2]
    with client.responses.stream(response_id=final.id, starting_after=half) as stream:
        assert [event.sequence_number for event in stream] == [n for n in numbers if n > half]
        assert stream.get_final_response().output_text == final.output_text
    raw = client.responses.retrieve(final.id, stream=True, starting_after=half)
    assert [event.sequence_number for event in raw] == [n for n in numbers if n > half]

    asked = client.responses.create(model="default", input="weather", tools=[TOOL])
    calls = [one for one in asked.output if one.type == "function_call"]
    outputs: Any = [
        {"type": "function_call_output", "call_id": one.call_id, "output": "sun"} for one in calls
    ]
    done = client.responses.create(
        model="default", input=outputs, previous_response_id=asked.id, tools=[TOOL]
    )
    assert done.output_text == "Results: sun, sun."
    assert [one.type for one in client.responses.input_items.list(done.id)] == [
        "function_call_output"
    ] * 2
    conversation = client.conversations.create(
        metadata={"topic": "demo"},
        items=[{"type": "message", "role": "user", "content": "before"}],
    )
    client.responses.create(model="default", input="one", conversation=conversation.id)
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    assert [one.type for one in items] == ["message"] * 3
    last: Any = items[-1]
    assert client.conversations.items.retrieve(last.id, conversation_id=conversation.id) == last
    client.conversations.items.delete(last.id, conversation_id=conversation.id)
    assert len(list(client.conversations.items.list(conversation.id))) == 2
    client.conversations.update(conversation.id, metadata={"topic": "other"})
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "other"}
    client.conversations.delete(conversation.id)
    _fails(openai.NotFoundError, lambda: client.conversations.retrieve(conversation.id))
    waiting = client.responses.create(model="default", input="x", background=True)
    client.responses.cancel(waiting.id)
    client.responses.delete(waiting.id)
    _fails(openai.NotFoundError, lambda: client.responses.retrieve(waiting.id))
    error = _fails(
        openai.BadRequestError,
        lambda: client.responses.create(model="default", input="x", top_logprobs=3),
    )
    assert (error.param, error.code) == ("top_logprobs", "unsupported_parameter")
    failed = client.responses.create(model="default", input="fail")
    assert failed.status == "failed"
    assert failed.error is not None
    for one in (plain, final, asked, done, failed):
        _check_type(one)
    return {"id": final.id, "text": final.output_text}


def _check_type(response: Any) -> None:
    """Hold a response against the types of Open Responses, which have no `mcp_call`."""
    from openresponses_types import types as spec

    shape = response.to_dict(mode="json")
    known = [item for item in shape["output"] if item["type"] != "mcp_call"]
    spec.ResponseResource.model_validate({**shape, "output": known})


def _fails(kind: Any, act: Any) -> Any:
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"did not fail with {kind}")


async def agents(client: openai.AsyncOpenAI) -> dict[str, Any]:
    # An import takes seconds on a busy machine, and the other acts need none of it.
    from agents import Agent, ModelSettings, Runner, function_tool, set_tracing_disabled
    from agents.models.openai_responses import OpenAIResponsesModel

    set_tracing_disabled(True)
    asked: list[str] = []

    @function_tool  # type: ignore[untyped-decorator] # its types are in its own environment
    def get_weather(city: str) -> str:
        """Return the weather of a city.

        Args:
            city: The city.
        """
        asked.append(city)
        return "sun"

    agent = Agent(
        name="Helper",
        instructions="Be brief.",
        model=OpenAIResponsesModel(model="default", openai_client=client),
        tools=[get_weather],
        model_settings=ModelSettings(),
    )
    result = await Runner.run(agent, "weather")
    assert sorted(asked) == ["Oslo", "Rome"]
    assert result.final_output == "Results: sun, sun."
    more = await Runner.run(agent, "system", previous_response_id=result.last_response_id)
    assert more.final_output == "My instructions: Be brief."
    streamed = Runner.run_streamed(agent, "Hello there")
    deltas = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(deltas) == streamed.final_output == "Hello there "
    conversation = await client.conversations.create()
    await Runner.run(agent, "one", conversation_id=conversation.id)
    last = await Runner.run(agent, "history", conversation_id=conversation.id)
    assert last.final_output == "user: one | assistant: one  | user: history"
    return {"asked": sorted(asked)}


def resume(client: openai.OpenAI) -> dict[str, Any]:
    stream = client.responses.create(model="default", input="Hello", stream=True, background=True)
    text, number, name, said = "", -1, "", 0
    try:
        for event in stream:
            number = event.sequence_number
            if event.type == "response.created":
                name = event.response.id
            if event.type == "response.output_text.delta":
                text, said = text + event.delta, said + 1
                if said == 3:
                    print(json.dumps({"id": name}), flush=True)
    except openai.APIError:
        pass
    except Exception as error:  # noqa: BLE001 - what a cut connection raises is the library's affair
        print(type(error).__name__, file=sys.stderr)
    sys.stdin.readline()
    status = None
    for event in client.responses.retrieve(name, stream=True, starting_after=number):
        assert event.sequence_number > number
        number = event.sequence_number
        if event.type == "response.output_text.delta":
            text += event.delta
        if event.type in {"response.completed", "response.failed", "response.incomplete"}:
            status = event.response.status
    final = client.responses.retrieve(name)
    return {"id": name, "text": text, "final": final.output_text, "status": status}


def retry(client: openai.OpenAI) -> dict[str, Any]:
    made = client.with_options(max_retries=3).responses.create(model="default", input="once")
    return {"id": made.id, "conversation": made.conversation.id if made.conversation else None}


def main() -> None:
    act, url = sys.argv[1:]
    if act == "agents":
        client = openai.AsyncOpenAI(api_key="key", base_url=url, max_retries=0)
        found = asyncio.run(agents(client))
    else:
        acts = {"responses": responses, "resume": resume, "retry": retry}
        found = acts[act](openai.OpenAI(api_key="key", base_url=url, max_retries=0))
    print(json.dumps(found), flush=True)


main()

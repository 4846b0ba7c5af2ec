"""Messages of a session as items of the protocol.

Reasoning, text and tool calls of one message are items of their own. A call of a tool that the
client brought is a `function_call`. A call of an agent's own tool is an `mcp_call` with its result:
clients run every `function_call` that they get, and this one was run already.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.sessions.asked_calls import Request
from bamboo_gateway.sessions.run_records import RunRecord
from bamboo_gateway.wires.openai.ids import ANSWER, APPROVAL, call_id, reasoning_id, text_id

Item = dict[str, Any]


class Placed(NamedTuple):
    """An item of a message of the assistant.

    Attributes:
        kind: `text`, `thinking`, or `call`.
        place: Its place among the parts of the message, or among the calls.
        item: The whole item.
    """

    kind: str
    place: int
    item: Item


def text_item(item_id: str, text: str, status: str = "completed") -> Item:
    """Return a text of the assistant."""
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": [output_text(text)],
    }


def output_text(text: str) -> dict[str, Any]:
    """Return the content part of a text of the assistant."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def reasoning_item(item_id: str, text: str) -> Item:
    """Return reasoning. It is a summary: the one form that all clients show."""
    return {"id": item_id, "type": "reasoning", "summary": [summary_text(text)]}


def summary_text(text: str) -> dict[str, Any]:
    """Return the part of a reasoning."""
    return {"type": "summary_text", "text": text}


def arguments_text(arguments: Any) -> str:
    """Return the arguments of a call as the JSON text that the protocol has."""
    return arguments if isinstance(arguments, str) else encode(arguments).decode()


def function_call(item_id: str, call: Mapping[str, Any], status: str = "completed") -> Item:
    """Return the call of a tool that the client runs."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call["id"],
        "name": call["name"],
        "arguments": arguments_text(call["arguments"]),
    }


def tool_run(
    item_id: str,
    call: Mapping[str, Any],
    label: str,
    status: str,
    output: str | None = None,
    request_id: str | None = None,
) -> Item:
    """Return the call of a tool that the agent runs itself.

    `request_id` is the item of the approval that it needs.
    """
    return {
        "id": item_id,
        "type": "mcp_call",
        "status": status,
        "server_label": label,
        "name": call["name"],
        "arguments": arguments_text(call["arguments"]),
        "output": output,
        "error": None,
        "approval_request_id": request_id,
    }


def call_output(message: Mapping[str, Any]) -> Item:
    """Return the result of a client's tool."""
    return {
        "id": message["id"],
        "type": "function_call_output",
        "status": "completed",
        "call_id": message["tool_call_id"],
        "output": Message.text_of(message["content"]),
    }


def approval(request: Mapping[str, Any], label: str, call: Mapping[str, Any] | None = None) -> Item:
    """Return a request for input as the request of an approval.

    Args:
        request: The event.
        label: The agent.
        call: The tool call that it is about.
    """
    asked = {"prompt": request["prompt"]}
    return {
        "id": APPROVAL + request["request_id"],
        "type": "mcp_approval_request",
        "server_label": label,
        "name": call["name"] if call is not None else request["kind"],
        "arguments": arguments_text(call["arguments"] if call is not None else asked),
    }


def approval_answer(given: Mapping[str, Any]) -> Item | None:
    """Return the answer to an approval, from its `input_given`; None for another answer."""
    answer = given.get("answer")
    if not isinstance(answer, dict) or "approved" not in answer:
        return None
    return {
        "id": ANSWER + given["request_id"],
        "type": "mcp_approval_response",
        "approval_request_id": APPROVAL + given["request_id"],
        "approve": answer["approved"],
        "reason": answer.get("reason"),
    }


class Results:
    """The results of calls in a list of messages, by the call."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self._by_call = {
            message["tool_call_id"]: message for message in messages if message["role"] == "tool"
        }

    def of(self, call_id: str) -> Mapping[str, Any] | None:
        """Return the message with the result of a call that a run has made itself."""
        message = self._by_call.get(call_id)
        return message if message is not None and message.get("run_id") else None


def placed_items(
    message: Mapping[str, Any],
    tools: Collection[str],
    label: str,
    results: Results,
    requests: Mapping[str, str],
) -> Iterator[Placed]:
    """Yield the items of a message of the assistant.

    Args:
        message: The message.
        tools: The names of the tools that the client brought.
        label: The agent.
        results: The results of its calls.
        requests: The items of the approvals that its calls need, by the call.
    """
    status = "completed" if message.get("status", "complete") == "complete" else "incomplete"
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for place, part in enumerate(parts):
        text = part.get("text") or ""
        if part["type"] == "thinking":
            yield Placed(
                "thinking", place, reasoning_item(reasoning_id(message["id"], place), text)
            )
        elif text:
            # What was cut off is at the end.
            state = status if place == len(parts) - 1 else "completed"
            yield Placed("text", place, text_item(text_id(message["id"], place), text, state))
    for place, call in enumerate(message.get("tool_calls") or ()):
        if call["name"] in tools:
            item_id = call_id(message["id"], place, is_client=True)
            item = function_call(item_id, call, status)
        else:
            request_id = requests.get(call["id"])
            item = run_of_call(message["id"], place, call, label, results, request_id)
        yield Placed("call", place, item)


def run_of_call(
    message_id: str,
    place: int,
    call: Mapping[str, Any],
    label: str,
    results: Results,
    request_id: str | None,
) -> Item:
    """Return the call of a tool of the agent's, with its result if there is one."""
    result = results.of(call["id"])
    state = "completed" if result is not None else "incomplete"
    output = Message.text_of(result["content"]) if result is not None else None
    item_id = call_id(message_id, place, is_client=False)
    return tool_run(item_id, call, label, state, output, request_id)


def output_items(record: RunRecord, tools: Collection[str]) -> list[Item]:
    """Return the items that a run has made, in order.

    A call that an earlier run has asked people about is in the output of both runs.
    """
    messages, label = record.output, record.run["agent"]
    results, found = Results(messages), list[Item]()
    continued = [one for one in record.continued if one.call["name"] not in tools]
    requests = approvals_of([*(one.asked for one in record.answered), *record.requests])
    for one in continued:
        request_id = requests.get(one.call["id"])
        found.append(run_of_call(one.message_id, one.place, one.call, label, results, request_id))
    calls = {one.call["id"]: one.call for one in continued}
    calls |= {call["id"]: call for one in messages for call in one.get("tool_calls") or ()}
    for message in messages:
        if message["role"] == "assistant":
            placed = placed_items(message, tools, label, results, requests)
            found += [one.item for one in placed]
        elif message["role"] == "tool":
            call = calls.get(message["tool_call_id"])
            if call is not None and call["name"] in tools:
                found.append(call_output(message))
    for request in record.requests:
        found.append(approval(request, label, calls.get(request.get("tool_call_id", ""))))
    return found


def approvals_of(asked: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the items of the approvals that calls need, by the call: the last one of each."""
    return {
        one["tool_call_id"]: APPROVAL + one["request_id"] for one in asked if "tool_call_id" in one
    }


def stored_items(
    messages: Sequence[Mapping[str, Any]],
    later: Sequence[Mapping[str, Any]] = (),
    requests: Sequence[Request] = (),
) -> list[Item]:
    """Return the items of messages of a conversation, in order.

    Args:
        messages: The messages.
        later: The messages behind them, as far as they may be results of their calls.
        requests: What people were asked about their calls.
    """
    results, found = Results([*messages, *later]), list[Item]()
    for message in messages:
        match message["role"]:
            case "assistant":
                found += _said_items(message, results, requests)
            case "tool":
                if not message.get("run_id"):
                    found.append(call_output(message))
            case _:
                found.append(input_item(message))
    return found


def _said_items(
    message: Mapping[str, Any], results: Results, requests: Sequence[Request]
) -> Iterator[Item]:
    """Yield the items of a message of the assistant: before a call what was asked about it."""
    calls = message.get("tool_calls") or ()
    asked_about = {
        call["id"]: [one for one in requests if one.asked.get("tool_call_id") == call["id"]]
        for call in calls
    }
    # A call without a result of the gateway's is one that a client runs, unless people were asked
    # about it: then the run that asked knows the client's tools.
    tools = {
        call["name"]
        for call in calls
        if results.of(call["id"]) is None
        and (not asked_about[call["id"]] or call["name"] in client_tools(asked_about[call["id"]]))
    }
    label, approvals = message.get("model") or "agent", approvals_of(one.asked for one in requests)
    for placed in placed_items(message, tools, label, results, approvals):
        if placed.kind == "call":
            call = calls[placed.place]
            for asked, settled in asked_about[call["id"]]:
                yield approval(asked, label, call)
                if settled is not None and (answer := approval_answer(settled)) is not None:
                    yield answer
        yield placed.item


def client_tools(requests: Iterable[Request]) -> set[str]:
    """Return the names of the tools that the client of the run that asked has brought."""
    return {tool["name"] for one in requests for tool in one.asked.get("client_tools") or ()}


def input_item(message: Mapping[str, Any]) -> Item:
    """Return a message of a user or the system."""
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {
        "id": message["id"],
        "type": "message",
        "status": "completed",
        "role": message["role"],
        "content": [_input_part(part) for part in parts],
    }


def _input_part(part: Mapping[str, Any]) -> dict[str, Any]:
    url = part.get("url")
    if url is None and "data" in part:
        url = f"data:{part['media_type']};base64,{part['data']}"
    match part["type"]:
        case "image":
            return {
                "type": "input_image",
                "detail": "auto",
                "image_url": url,
                "file_id": part.get("file_id"),
            }
        case "file":
            shown = {"type": "input_file", "filename": part.get("name")}
            if "file_id" in part:
                return {**shown, "file_id": part["file_id"]}
            return {**shown, ("file_url" if part.get("url") else "file_data"): url}
        case _:
            return {"type": "input_text", "text": part.get("text") or ""}

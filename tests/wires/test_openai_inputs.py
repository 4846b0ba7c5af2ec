"""Whatever a client sends as input, parameters or ids is read or refused, and never an accident."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bamboo_gateway.domain.codec import encode
from bamboo_gateway.domain.errors import InvalidInput
from bamboo_gateway.wires.openai.errors import openai_error_body
from bamboo_gateway.wires.openai.ids import message_of, run_of, session_of
from bamboo_gateway.wires.openai.inputs import finished, read_input
from bamboo_gateway.wires.openai.parameters import read_parameters

_TEXTS = st.sampled_from(
    [
        "",
        "x",
        "user",
        "assistant",
        "developer",
        "call_1",
        "{}",
        '{"a":1}',
        "data:image/png;base64,AA",
    ]
) | st.text(max_size=8)
_KINDS = st.sampled_from(
    [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "mcp_approval_response",
        "mcp_call",
        "input_text",
        "input_image",
        "input_file",
        "output_text",
        "summary_text",
        "function",
        "json_schema",
        "other",
    ]
)
_SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | _TEXTS
_NAMES = st.sampled_from(
    [
        "role",
        "content",
        "text",
        "summary",
        "arguments",
        "call_id",
        "name",
        "output",
        "image_url",
        "file_data",
        "file_url",
        "file_id",
        "filename",
        "approve",
        "approval_request_id",
        "format",
        "effort",
        "parameters",
        "description",
    ]
)
_VALUES = st.recursive(
    _SCALARS | _KINDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.builds(
            lambda kind, rest: {"type": kind, **rest},
            _KINDS | _SCALARS,
            st.dictionaries(_NAMES, inner, max_size=4),
        )
    ),
    max_leaves=12,
)
_PARAMETERS = st.sampled_from(
    [
        "instructions",
        "temperature",
        "top_p",
        "max_output_tokens",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "tools",
        "tool_choice",
        "include",
        "metadata",
        "service_tier",
        "truncation",
        "top_logprobs",
        "user",
        "nonsense",
    ]
)


def check_refusal(error: InvalidInput) -> None:
    problem = {
        "status": 422,
        "code": error.code,
        "detail": error.detail,
        "errors": error.errors,
    }
    status, body = openai_error_body(problem)
    assert status == 400
    assert body["error"]["param"]
    encode(body)


@given(_VALUES | st.lists(_VALUES, max_size=4))
def test_any_input_is_read_or_refused_by_its_place(value: Any) -> None:
    try:
        found = read_input(value)
        messages = finished(found)
    except InvalidInput as error:
        check_refusal(error)
        return
    for message in messages:
        assert message.role in {"user", "assistant", "system", "tool"}
        assert isinstance(message.content, str) or message.content
        encode(message)


@given(st.dictionaries(_PARAMETERS, _VALUES, max_size=3))
def test_any_parameters_are_read_or_refused_by_their_name(body: dict[str, Any]) -> None:
    try:
        found = read_parameters(body, None)
    except InvalidInput as error:
        check_refusal(error)
        return
    encode(found.asked)
    encode(found.options)


@given(st.text(max_size=40) | st.from_regex(r"(resp|conv|msg|rs|fc)_[A-Za-z0-9_.~-]{0,30}"))
def test_any_id_is_one_or_none(text: str) -> None:
    for read in (run_of, session_of, message_of):
        read(text)

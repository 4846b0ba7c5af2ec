"""Histories as an OpenAI-compatible server takes them."""

from typing import Any

import pytest

from bamboo_gateway.agents.openai_messages import to_openai
from bamboo_gateway.domain.messages import Message
from bamboo_gateway.domain.tool_order import INTERRUPTED
from tests.agents.turns import said


def calls(*ids: str, arguments: Any = None, text: str = "", **fields: Any) -> Message:
    made = [{"id": i, "name": "look", "arguments": arguments or {"at": i}} for i in ids]
    return said("assistant", text, tool_calls=made, **fields)


def result(call_id: str, text: Any = "seen") -> Message:
    return said("tool", text, tool_call_id=call_id)


def tool(call_id: str, text: str = "seen") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def test_a_plain_conversation_passes_through() -> None:
    assert to_openai([said("user", "Hi"), said("assistant", "Hello"), said("user", "Bye")]) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]


def test_the_system_prompt_stands_first_and_joins_one_that_is_there() -> None:
    assert to_openai([said("system", "Summary."), said("user", "Hi")], "Be kind.") == [
        {"role": "system", "content": "Be kind.\n\nSummary."},
        {"role": "user", "content": "Hi"},
    ]


def test_tool_calls_and_results_have_the_apis_shape() -> None:
    assert to_openai([said("user", "?"), calls("a"), result("a", [{"type": "text", "text": "x"}])])[
        1:
    ] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "a",
                    "type": "function",
                    "function": {"name": "look", "arguments": '{"at":"a"}'},
                }
            ],
        },
        tool("a", "x"),
    ]


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ("not json", '{"input":"not json"}'),
        ("[1]", '{"input":"[1]"}'),
        ({"a": [1]}, '{"a":[1]}'),
    ],
)
def test_arguments_are_always_the_text_of_an_object(given: Any, sent: str) -> None:
    request = to_openai([calls("a", arguments=given)])
    assert request[0]["tool_calls"][0]["function"]["arguments"] == sent


def test_a_call_without_a_result_is_said_to_have_been_interrupted() -> None:
    request = to_openai([calls("a", "b", status="incomplete"), result("b"), said("user", "And?")])
    assert request[1:] == [
        tool("a", INTERRUPTED),
        tool("b"),
        {"role": "user", "content": "And?"},
    ]


def test_a_late_result_is_moved_to_its_call() -> None:
    request = to_openai([calls("a"), said("user", "Wait"), result("a")])
    assert request[1:] == [tool("a"), {"role": "user", "content": "Wait"}]


def test_results_without_a_call_and_second_results_are_left_out() -> None:
    request = to_openai([result("a"), calls("a"), result("a", "1"), result("a", "2"), result("zz")])
    assert request[1:] == [tool("a", "1")]


def test_an_id_that_comes_again_in_a_later_turn_has_its_own_result() -> None:
    request = to_openai([calls("a"), result("a", "1"), calls("a"), result("a", "2")])
    assert [m["content"] for m in request if m["role"] == "tool"] == ["1", "2"]


def test_an_id_that_comes_twice_in_one_message_is_one_call() -> None:
    request = to_openai([calls("a", "a"), result("a")])
    assert len(request[0]["tool_calls"]) == 1
    assert request[1:] == [tool("a")]


def test_empty_messages_are_left_out_and_neighbours_joined() -> None:
    thought = [{"type": "thinking", "text": "hm"}]
    request = to_openai(
        [
            said("user", "One"),
            said("assistant", thought, status="incomplete"),
            said("user", "Two"),
            said("assistant", "Half", status="incomplete"),
            said("assistant", "Whole"),
        ]
    )
    assert request == [
        {"role": "user", "content": "One\n\nTwo"},
        {"role": "assistant", "content": "Half\n\nWhole"},
    ]


def test_text_before_calls_is_kept_and_not_joined_with_what_follows_the_results() -> None:
    request = to_openai([calls("a", text="Let me look."), result("a"), said("assistant", "Done")])
    assert request[0]["content"] == "Let me look."
    assert request[2] == {"role": "assistant", "content": "Done"}


def test_images_and_files_become_parts() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "thinking", "text": "never sent"},
        {"type": "image", "url": "https://example.test/a.png"},
        {"type": "image", "data": "QUJD", "media_type": "image/png"},
        {"type": "file", "data": "QUJD", "media_type": "application/pdf", "name": "a.pdf"},
        {"type": "file", "url": "https://example.test/b.pdf", "name": "b.pdf"},
    ]
    assert to_openai([said("user", parts), said("user", "Well?")]) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
                {
                    "type": "file",
                    "file": {
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,QUJD",
                    },
                },
                {"type": "text", "text": "[file b.pdf: https://example.test/b.pdf]"},
                {"type": "text", "text": "Well?"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("url", "origins", "passed"),
    [
        ("https://images.example/a.png", "*", True),
        ("HTTPS://Images.Example/a.png", "https://images.example", True),
        ("https://b.example:8443/a", "https://images.example,https://b.example:8443", True),
        ("https://images.example.evil/a", "https://images.example", False),
        ("https://images.example:444/a", "https://images.example", False),
        ("https://images.example@evil.example/", "https://images.example", False),
        ("https://u:p@images.example/", "https://images.example", False),
        ("https://evil.example\\@images.example/", "https://images.example", False),
        ("https://images.example\t.evil/", "https://images.example", False),
        ("http://images.example/", "https://images.example", False),
        ("http://169.254.169.254/latest", "https://images.example", False),
        ("https://images.example/", "", False),
        ("file:///etc/passwd", "*", False),
        ("gopher://127.0.0.1:6379/_x", "*", False),
        ("//127.0.0.1/a", "*", False),
        ("a.png", "*", False),
        ("http://[::1", "*", False),
        ("https://", "*", False),
        ("data:image/png;base64,QUJD", "", True),
    ],
)
def test_only_addresses_that_are_allowed_are_passed_on(
    url: str, origins: str, passed: bool
) -> None:
    message = said("user", [{"type": "image", "url": url}])
    (request,) = to_openai([message], media_origins=origins)
    if passed:
        assert request["content"] == [{"type": "image_url", "image_url": {"url": url}}]
    else:
        assert "address is not allowed" in request["content"]
        assert url not in request["content"]


def test_an_image_in_the_message_itself_is_always_passed_on() -> None:
    message = said("user", [{"type": "image", "data": "QUJD", "media_type": "image/png"}])
    assert to_openai([message], media_origins="")[0]["content"][0]["type"] == "image_url"


def test_parts_that_are_only_text_are_sent_as_a_string() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert to_openai([said("user", parts)]) == [{"role": "user", "content": "ab"}]

"""What clients of all protocols send, in the gateway's words."""

import pytest

from bamboo_gateway.domain.ids import is_id
from bamboo_gateway.wires.client_messages import (
    WrongMessage,
    approval,
    client_tool,
    data_url,
    guessed_media_type,
    new_message,
    stored_id,
    text_or_parts,
)


@pytest.mark.parametrize("client_id", ["a b", "x" * 1000, "\ud800", "-", "é"])
def test_an_id_of_any_form_gets_the_same_id_of_the_gateway_each_time(client_id: str) -> None:
    assert is_id(stored_id(client_id))
    assert stored_id(client_id) == stored_id(client_id)
    assert stored_id(client_id) != stored_id(client_id + "a")


def test_an_id_that_the_gateway_takes_stays() -> None:
    assert stored_id("msg_1") == "msg_1"


def test_a_wrong_message_names_the_member_without_tags_of_unions() -> None:
    with pytest.raises(WrongMessage) as caught:
        new_message({"role": "user", "content": [{"type": "text", "text": 1}]})
    assert caught.value.place == ("content", 0, "text")
    assert "string" in caught.value.reason


def test_a_single_text_needs_no_list() -> None:
    text = {"type": "text", "text": "Hi"}
    assert text_or_parts([text]) == "Hi"
    assert text_or_parts([text, text]) == [text, text]
    # An empty text alone is no message.
    assert text_or_parts([{"type": "text", "text": ""}]) == [{"type": "text", "text": ""}]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("data:image/PNG;base64,AAAA", ("image/png", "AAAA")),
        ("data:;base64,AAAA", ("", "AAAA")),
        ("data:text/plain;charset=utf-8;name=a;base64,AAAA", ("text/plain", "AAAA")),
        ("data:text/plain,AAAA", None),
        ("https://example.org/data:image/png;base64,AAAA", None),
    ],
)
def test_a_data_url_has_a_media_type_and_base64(url: str, found: tuple[str, str] | None) -> None:
    assert data_url(url) == found


def test_a_media_type_that_nobody_says_is_that_of_the_ending() -> None:
    assert guessed_media_type("image", "https://example.org/a.unknown") == "image/*"
    assert guessed_media_type("image", "https://example.org/a.gif") == "image/gif"
    assert guessed_media_type("file") == "application/octet-stream"


def test_a_tool_without_parameters_takes_an_empty_object() -> None:
    assert client_tool("t", None, None) == {
        "name": "t",
        "parameters": {"type": "object", "properties": {}},
    }
    assert client_tool("t", "d", {}) == {"name": "t", "description": "d", "parameters": {}}


def test_a_reason_that_is_no_text_is_left_out() -> None:
    assert approval(True, None) == {"approved": True}
    assert approval(False, "no") == {"approved": False, "reason": "no"}

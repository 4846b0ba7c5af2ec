"""The Markdown's structure is the exporter's alone, whatever a session holds."""

from itertools import permutations
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bamboo_gateway.exporters.base import DocumentHead
from bamboo_gateway.exporters.markdown import MarkdownExporter
from tests.exporters.documents import (
    CALL,
    MESSAGES,
    SESSION,
    SUMMARY,
    TEXTS,
    conversations,
    export,
    export_now,
    message,
    sessions,
)

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
OUR_HTML = {
    "<details>\n<summary>Thinking</summary>\n",
    "<details>\n<summary>Metadata</summary>\n",
    "<details>\n<summary>Extension data</summary>\n",
    "</details>\n",
}


async def markdown(**members: Any) -> str:
    return (await export("markdown", **members)).decode()


def blocks(text: str) -> tuple[list[Token], dict[str, Any]]:
    environment: dict[str, Any] = {}
    return PARSER.parse(text, environment), environment


def headings(text: str) -> list[tuple[str, int, str]]:
    """Every heading at whatever depth: its level, how deep it stands, its text."""
    tokens, _ = blocks(text)
    return [
        (token.tag, token.level, tokens[at + 1].content)
        for at, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def inner(text: str) -> list[Token]:
    tokens, _ = blocks(text)
    return [child for token in tokens for child in token.children or ()]


# What Markdown gives a meaning, to be mixed by chance.
PIECES = [
    "#", "##", "# x", "=", "===", "-", "---", "- ", "* ", "+ ", "1. ", "12) ", "> ", ">", "```",
    "````", "`", "``", "~~~", "~~~~", "~", "<", ">", "<b>", "</details>", "<!--", "-->",
    "<script>", "<a:b>", "<?", "<![CDATA[", "]]>", "[x]", "[x]: /u", "[", "]", "]:", ":", "(", ")",
    "![x](/y)", "[!NOTE]", "!", "|", "| a | b |", "|---|---|", ":-:", "a | b", "- | -", "\\",
    "\\\\", "&#x202E;", "&lt;", "&", "\n", "\n", "\n\n", "\r", "\r\n", "\t", " ", "    ", "\x0b",
    "\x0c", "\x85", "\u2028", "\0", "\u202e", "a", "x y", "**", "_", "http://a.b", "www.a.b", "{",
    "}", "$", "'", '"', "\x1b[0m", "\U000e0041",
]  # fmt: skip
MARKED_UP = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
HOSTILE = st.one_of(MARKED_UP, MARKED_UP, TEXTS)


def expect_contained(text: str, messages: int, *, summary: bool = False) -> None:
    found = headings(text)
    assert [(tag, level) for tag, level, _ in found] == [
        ("h1", 0), *[("h2", 0)] * (messages + summary),
    ]  # fmt: skip
    tokens, environment = blocks(text)
    assert not environment.get("references")
    html = [token.content for token in tokens if token.type == "html_block"]
    assert set(html) <= OUR_HTML
    assert [token.type for token in tokens if token.level == 0].count("table_open") <= 1
    assert all(token.level == 0 for token in tokens if token.type == "table_open")
    assert not [child for child in inner(text) if child.type in {"html_inline", "image"}]


@given(text=HOSTILE)
@settings(deadline=None, max_examples=500)
@example("Foo\n- ")
@example("- Foo\n  -")
@example("> Foo\n> ---")
@example("a | b\n- | -")
@example("[a `]: /url`\n\n[a `]")
@example("\\<b>")
@example("\\\\<b>")
@example("\\\\[x]: /y")
@example("[x\\\\]: /y")
@example("`a\n# b`")
@example("`|a` <b>|\n-|-\n")
@example("- ```\n  </details>\n# x")
@example("> ~~~\n# x\n<b>")
@example("~~~ a`b\n# x")
@example("1. # x\n* - + > # y")
@example("![!x](/y) [![i](/j)](/k)")
@example("\t# x\n\n    # y\n  ```\n  # z")
@example("```\nunclosed\n# x\n<!-- ")
def test_no_text_gets_out_of_its_message(text: str):
    said = [message(1, "user", text), message(2, "assistant", "end")]
    expect_contained(export_now("markdown", SESSION, said).decode(), 2)


@given(session=sessions(), text=HOSTILE, messages=conversations())
@settings(deadline=None, max_examples=100)
def test_no_member_of_a_session_changes_the_structure(
    session: dict[str, Any], text: str, messages: list[Any]
):
    hostile = session | {"title": text, "working_dir": text, "metadata": {text: text}}
    call = {"id": "c", "name": text, "arguments": {text: text}}
    said = [
        *messages,
        message(90, "assistant", "", tool_calls=[call], model=text, metadata={text: text}),
        message(91, "tool", text, tool_call_id="c"),
        message(92, "tool", [{"type": "text", "text": text}], tool_call_id=text),
        message(93, "user", [{"type": "file", "url": text, "media_type": text, "name": text}]),
        message(94, "assistant", [{"type": "thinking", "text": text}, {"type": text}]),
    ]
    written = export_now("markdown", hostile, said, {"summary": text}).decode()
    count = sum(m["role"] != "tool" for m in messages) + 4
    expect_contained(written, count, summary=True)
    title = headings(written)[0][2]
    assert not [c for c in PARSER.parseInline(title)[0].children or () if c.type != "text"
                and c.type != "text_special"]  # fmt: skip


async def test_a_message_keeps_its_own_markdown_where_it_does_no_harm():
    said = (
        "**Bold** and `code <b>`:\n\n- one\n- two\n\n```py\nprint('# <b>')\n```\n\n[l](http://x.y)"
    )
    text = await markdown(messages=[message(1, "assistant", said)])
    html = PARSER.render(text)
    assert "<strong>Bold</strong>" in html
    assert "<code>code &lt;b&gt;</code>" in html
    assert "<li>two</li>" in html
    assert "<pre><code class=\"language-py\">print('# &lt;b&gt;')\n</code></pre>" in html
    assert '<a href="http://x.y">l</a>' in html


async def test_what_is_escaped_reads_as_it_was_written():
    said = "# Title\n---\n<b>&#35; ![i](u)\n[x]: y"
    html = PARSER.render(await markdown(messages=[message(1, "user", said)]))
    for shown in ("# Title", "---", "&lt;b&gt;&amp;#35; !", "[x]: y"):
        assert shown in html


async def test_a_table_keeps_its_columns_as_code():
    said = "See:\n| a | b |\n|---|---|\n| 1 | 2 |\ndone"
    text = await markdown(messages=[message(1, "assistant", said)])
    assert "> ```\n> | a | b |\n> |---|---|\n> | 1 | 2 |\n> ```\n> done" in text


async def test_a_result_stands_under_the_call_that_made_it():
    calls = [CALL, CALL | {"id": "call-2", "arguments": {"query": "buses"}}]
    said = [
        message(1, "user", "go"),
        message(2, "assistant", "", tool_calls=calls),
        message(3, "tool", "second", tool_call_id="call-2"),
        message(4, "tool", "first", tool_call_id="call-1"),
        message(5, "assistant", "done"),
    ]
    text = await markdown(messages=said)
    order = ["## Assistant", "trains", "first", "buses", "second", "## Assistant", "done"]
    places = [text.index(part, text.index("## Assistant")) for part in order[:5]]
    assert places == sorted(places)
    assert len(headings(text)) == 4


async def test_a_result_that_comes_later_has_a_heading_of_its_own():
    said = [*MESSAGES[:2], message(5, "user", "and?"), MESSAGES[2]]
    text = await markdown(messages=said)
    assert [h[2].split(" ")[0] for h in headings(text)[1:]] == ["User", "Assistant", "User", "Tool"]
    assert "**Result of call-1:**" in text


async def test_a_fence_is_longer_than_any_run_of_backticks_inside():
    said = [*MESSAGES[:2], MESSAGES[2] | {"content": "```\n`````\n# x"}]
    text = await markdown(messages=said)
    assert "``````\n```\n`````\n# x\n``````\n" in text


async def test_thinking_is_folded():
    part = {"type": "thinking", "text": "hm </details>\n\n</details>"}
    text = await markdown(messages=[message(1, "assistant", [part])])
    assert "<details>\n<summary>Thinking</summary>\n\n> hm" in text
    expect_contained(text, 1)


async def test_the_head_tells_what_the_session_is():
    text = await markdown(summary=SUMMARY)
    assert text.startswith("# Plan a trip\n\n| | |\n|---|---|\n| Session | s-1 |\n")
    for row in ("Owner | u-1", "Working directory | /home/ann", "Tokens | 3", "Forked from | s-0"):
        assert f"| {row} |" in text
    assert "## Summary\n\n> So far: nothing." in text
    assert "## User · 2026-11-20T17:25:01.000Z" in text
    assert "*m-large*" in text


async def test_a_pipe_character_in_a_value_stays_in_its_cell():
    text = await markdown(session=SESSION | {"metadata": {"a|b": "c|d"}})
    assert "<td>a|b</td>\n<td>c|d</td>" in PARSER.render(text)


async def test_a_fence_of_tildes_behind_a_list_marker_hides_nothing():
    text = await markdown(messages=[message(1, "user", "- ~~~\n  **b**")])
    assert "<strong>b</strong>" in PARSER.render(text)


async def test_without_metadata_there_is_no_table():
    text = await markdown(include_metadata=False)
    assert "|" not in text
    assert "m-large" not in text


async def test_a_session_without_title_is_called_by_its_id():
    assert (await markdown(session=SESSION | {"title": None})).startswith("# Session s-1\n")


async def test_an_incomplete_message_says_so():
    said = [message(1, "assistant", "Hel", status="incomplete")]
    assert headings(await markdown(messages=said))[1][2].endswith("· incomplete")


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\u2066", "\x1b", "\x07", "\x9b", "\U000e0041", "\ufeff"]
)
async def test_invisible_characters_are_made_visible(hidden: str):
    said = [message(1, "user", f"a{hidden}b"), *MESSAGES[1:3]]
    assert hidden not in await markdown(
        session=SESSION | {"title": f"a{hidden}b", "metadata": {"k": hidden}}, messages=said
    )


@pytest.mark.parametrize("text", ["`" * 200_000 + "x", "-" * 200_000 + "x", "> " * 100_000,
    "".join("`" * n + " " for n in range(1, 600)), "[" * 200_000, "\\" * 200_001,
    "- " * 100_000 + "#", "1. " * 70_000])  # fmt: skip
async def test_a_hostile_line_is_written_in_time_linear_to_its_length(text: str):
    with anyio.fail_after(60):
        assert await markdown(messages=[message(1, "user", text)])


def exchange_in(order: tuple[int, ...], text: str = "out") -> list[Any]:
    calls = [{"id": f"c-{n}", "name": "f", "arguments": {"n": n}} for n in range(len(order))]
    results = [message(10 + n, "tool", f"{text} {n}", tool_call_id=f"c-{n}") for n in order]
    asked = message(2, "assistant", "Looking.", tool_calls=calls)
    return [message(1, "user", "Go."), asked, *results, message(99, "user", "Thanks.")]


@pytest.mark.parametrize("order", list(permutations(range(4))))
async def test_each_result_stands_under_its_call_in_whatever_order_they_come(order: Any):
    assert await export("markdown", messages=exchange_in(order)) == await export(
        "markdown", messages=exchange_in((0, 1, 2, 3))
    )


async def test_r11_results_that_come_in_order_are_not_held_back():
    document = MarkdownExporter()
    document.begin(DocumentHead(SESSION, None, None))
    _, asked, *results, last = exchange_in((0, 1, 2), "x" * 100_000)
    assert b"Looking." in document.add([asked])
    for number, result in enumerate(results):
        written = document.add([result])
        assert written.count(b"**Tool call:**") == written.count(b"**Result:**") == 1
        assert b" %d\n" % number in written
    assert b"Tool call" not in document.add([last])


async def test_r11_results_beyond_what_is_held_back_stand_behind_their_message(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("bamboo_gateway.exporters.markdown.HELD_BYTES_MAX", 2_500)
    text = (await export("markdown", messages=exchange_in((3, 2, 1, 0), "x" * 1_000))).decode()
    # Two were held; the third was too much, so all that wait are written, and the rest by itself.
    assert text.count("**Result:**") == 2
    assert text.index("**Result of c-1:**") < text.index("**Result of c-0:**")
    assert text.count("**Tool call:**") == 4
    for number in range(4):
        assert f"x {number}\n" in text

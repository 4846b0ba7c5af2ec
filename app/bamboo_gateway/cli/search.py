"""`bamboo search`: find messages by the words in them."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, JsonOption, UrlOption
from bamboo_gateway.cli.output import harmless, notice, print_json, print_line, stdout
from bamboo_gateway.cli.session_ids import whole_id
from bamboo_gateway.cli.sessions import pages

_WHITESPACE = re.compile(r"\s+")


def search(
    words: Annotated[
        list[str],
        typer.Argument(help="Words that a message has, all of them; quote a phrase."),
    ],
    user_id: Annotated[str | None, typer.Option(help="Only messages to this user.")] = None,
    role: Annotated[
        str | None,
        typer.Option(help="system, user, assistant or tool. Results of tools need `tool`."),
    ] = None,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Only in this session.")] = None,
    created_after: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339.")] = None,
    created_before: Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339.")] = None,
    archived: Annotated[str | None, typer.Option(help="exclude, only or include.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most messages to show.")] = 20,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Find messages by the words in them, the newest first."""
    from bamboo_gateway.cli.client import GatewayClient

    filters = {
        "q": " ".join(map(_term, words)),
        "user_id": user_id,
        "role": role,
        "created_after": created_after,
        "created_before": created_before,
        "archived": archived,
    }
    with GatewayClient(url, api_key) as client:
        if session is not None:
            filters["session_id"] = whole_id(client, session)
        shown = 0
        for result in pages(client, "/search", "results", filters, limit):
            shown += 1
            if json:
                print_json(result)
            else:
                _print_result(result)
        if not shown and not json:
            notice("no messages")


def _term(word: str) -> str:
    """Return a word as it stands in a query: what the shell took for one word is a phrase."""
    return f'"{word}"' if _WHITESPACE.search(word) and '"' not in word else word


def _print_result(result: Mapping[str, Any]) -> None:
    title = f"  {result['title']}" if result["title"] else ""
    print_line(f"{result['created_at']}  {result['session_id']}  {result['role']}{title}", "dim")
    text = Text("  ")
    for piece, is_hit in _pieces(result["snippet"], result["ranges"]):
        text.append(harmless(_WHITESPACE.sub(" ", piece)), "bold reverse" if is_hit else "")
    stdout().print(text, soft_wrap=True)


def _pieces(snippet: str, ranges: list[list[int]]) -> Iterator[tuple[str, bool]]:
    """Yield the pieces of a snippet, and whether each is a hit."""
    end = 0
    for start, stop in ranges:
        yield snippet[end:start], False
        yield snippet[start:stop], True
        end = stop
    yield snippet[end:], False

"""`bamboo inputs`: what agents ask people, and the answers."""

from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import (
    DEFAULT_URL,
    WHICH_SESSION,
    ApiKeyOption,
    JsonOption,
    UrlOption,
    session_id,
)
from bamboo_gateway.cli.output import (
    CommandError,
    ExitCode,
    notice,
    one_line,
    print_json,
    print_line,
)
from bamboo_gateway.cli.session_ids import whole_id

commands = typer.Typer(
    name="inputs", help="List what agents ask people, and answer.", no_args_is_help=True
)

PROMPT_CHARS = 100


@commands.command("list")
def list_(
    session: Annotated[
        str | None,
        typer.Argument(help=f"{WHICH_SESSION} Without it: every session.", metavar="[ID]"),
    ] = None,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """List the open requests for input, of one session or of all."""
    from bamboo_gateway.cli.client import GatewayClient

    with GatewayClient(url, api_key) as client:
        for one, request in _open(client, session):
            if json:
                print_json({"session_id": one, **request})
                continue
            until = f"  until {request['expires_at']}" if request["expires_at"] else ""
            prompt = one_line(request["prompt"], PROMPT_CHARS)
            print_line(f"{one}  {request['request_id']}  {request['kind']}{until}  {prompt}")


def _open(client: Any, session: str | None) -> list[tuple[str, dict[str, Any]]]:
    if session is not None:
        one = whole_id(client, session)
        return [(one, each) for each in client.call("GET", f"/sessions/{one}/inputs")["inputs"]]
    found: list[tuple[str, dict[str, Any]]] = []
    cursor = None
    while True:
        params = {"state": "needs_input", "cursor": cursor, "count": "false"}
        page = client.call("GET", "/sessions", params=params)
        for shown in page["sessions"]:
            found += [(shown["id"], request) for request in shown["open_requests"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


@commands.command("answer")
def answer(
    session: Annotated[str, typer.Argument(help=WHICH_SESSION, metavar="ID")],
    request: Annotated[
        str | None,
        typer.Argument(help="Which request; without it, all are asked here.", metavar="REQUEST"),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(
            help="The answer: text, or JSON with --json-answer; of an approval: yes or no.",
            metavar="ANSWER",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why an approval is refused.", metavar="TEXT")
    ] = None,
    json_answer: Annotated[
        bool, typer.Option("--json-answer", help="ANSWER is JSON, and not text.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Answer what an agent asks. The last answer starts the run that goes on with all of them."""
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.questions import ask

    with GatewayClient(url, api_key) as client:
        one = whole_id(client, session)
        waiting = {each["request_id"]: each for _, each in _open(client, one)}
        if request is not None:
            session_id(request, "request id")
        names = [request] if request is not None else list(waiting)
        if not names:
            raise CommandError(f"Session {one} waits for no answer.", ExitCode.FAILED)
        answers = {}
        for name in names:
            kind = waiting[name]["kind"] if name in waiting else "question"
            if value is None:
                if name not in waiting:
                    raise CommandError(f"Nobody asks {name} (any more).", ExitCode.FAILED)
                answers[name] = ask(waiting[name])
            else:
                answers[name] = _answer_of(kind, value, reason, is_json=json_answer)
        taken = client.call("POST", f"/sessions/{one}/inputs", json={"answers": answers})
    if json:
        print_json(taken)
    elif taken["run_id"] is None:
        notice("answered; other requests are open")
    else:
        notice(f"answered; the run {taken['run_id']} goes on")


def _answer_of(kind: str, value: str, reason: str | None, *, is_json: bool) -> Any:
    from bamboo_gateway.domain import codec

    if is_json:
        try:
            return codec.decode(value)
        except ValueError as error:
            raise CommandError("ANSWER is no JSON.", ExitCode.USAGE) from error
    if kind != "approval":
        return value
    if value.lower() in {"y", "yes"}:
        return {"approved": True}
    if value.lower() in {"n", "no"}:
        return {"approved": False, **({"reason": reason} if reason else {})}
    raise CommandError("An approval is answered with yes or no.", ExitCode.USAGE)

"""`bamboo chat`: a conversation in the terminal."""

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from bamboo_gateway.cli.options import DEFAULT_URL, ApiKeyOption, UrlOption
from bamboo_gateway.cli.output import CommandError, ExitCode, complain, notice
from bamboo_gateway.cli.session_ids import session_to_chat_in
from bamboo_gateway.domain import codec

if TYPE_CHECKING:
    from bamboo_gateway.cli.client import GatewayClient


def chat(
    message: Annotated[
        str | None, typer.Argument(help="The message; without it, an interactive conversation.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", help="The session to continue, or to begin.", metavar="ID"),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(help="The agent that answers.", metavar="NAME")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            "-o",
            help="An option for the agent; VALUE is JSON or text. Repeatable.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Talk with an agent. The answer streams, and the command reconnects when a connection is lost.

    Ctrl-C cancels the running answer, a second one exits; Ctrl-D ends the conversation. The message
    can also come on standard input.
    """
    from bamboo_gateway.cli.client import GatewayClient

    options = _options(option or [])
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read()
    with GatewayClient(url, api_key) as client:
        if session is not None:
            session = _announced(session, session_to_chat_in(client, session))
        if message is None:
            _converse(client, session, agent, options)
            return
        if not message.strip():
            raise CommandError("The message is empty.", ExitCode.USAGE)
        ended = _turn(client, message, session, agent, options).ended
        if ended != "complete":
            raise typer.Exit(ExitCode.INTERRUPTED if ended == "cancelled" else ExitCode.FAILED)


def _announced(typed: str, session: str) -> str:
    if session != typed:
        notice(f"session {session}")
    return session


class Turned(NamedTuple):
    """The outcome of one turn: its session, and the type of the run's terminal event."""

    session_id: str
    ended: str


def _turn(
    client: "GatewayClient",
    message: str,
    session: str | None,
    agent: str | None,
    options: dict[str, Any],
) -> Turned:
    from bamboo_gateway.cli.runs import CancelOnInterrupt, ChatRequest, new_id, send, show
    from bamboo_gateway.cli.transcript import Transcript

    transcript = Transcript()
    request = ChatRequest(message, session or new_id("s-"), agent, options)
    try:
        with CancelOnInterrupt(client, request.session_id, request.run_id) as interrupt:
            run = send(client, request)
            interrupt.begun()
            if session is None:
                notice(f"session {request.session_id}")
            ended = show(client, run, transcript)
        if transcript.waits:
            ended = _answered(client, request.session_id, ended)
        return Turned(request.session_id, ended)
    except KeyboardInterrupt:
        notice(f"Stopped watching; the run may continue in session {request.session_id}.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _answered(client: "GatewayClient", session: str, ended: str) -> str:
    """Ask what the session waits for, and show the run with the answers, until nothing is open.

    Returns:
        The type of the last run's terminal event.
    """
    from bamboo_gateway.cli.questions import ask
    from bamboo_gateway.cli.runs import CancelOnInterrupt, new_id, show
    from bamboo_gateway.cli.transcript import Transcript

    path = f"/sessions/{session}/inputs"
    while ended == "complete" and (waiting := client.call("GET", path)["inputs"]):
        if not sys.stdin.isatty():
            notice(f"The agent waits for an answer: bamboo inputs answer {session}")
            break
        try:
            answers = {one["request_id"]: ask(one) for one in waiting}
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            notice(f"Not answered. Answer later: bamboo inputs answer {session}")
            break
        run_id = new_id("run_")
        try:
            taken = client.call("POST", path, json={"answers": answers, "run_id": run_id})
        except CommandError as failure:
            complain(failure)
            continue
        if taken["run_id"] is not None:
            with CancelOnInterrupt(client, session, taken["run_id"]):
                ended = show(client, taken, Transcript())
    return ended


def _converse(
    client: "GatewayClient", session: str | None, agent: str | None, options: dict[str, Any]
) -> None:
    notice("Ctrl-C cancels an answer, Ctrl-D ends the conversation.")
    _take_up(client, session)
    while (text := _read_message()) is not None:
        if not text.strip():
            continue
        try:
            session = _turn(client, text, session, agent, options).session_id
        except CommandError as failure:
            complain(failure)
    if session:
        notice(f"Continue with: bamboo chat --session {session}")


def _take_up(client: "GatewayClient", session: str | None) -> None:
    """Print what the session holds already, and show its active run to the end."""
    from bamboo_gateway.cli.client import RefusedError
    from bamboo_gateway.cli.runs import CancelOnInterrupt, show
    from bamboo_gateway.cli.transcript import Transcript

    if session is None:
        client.call("GET", "/health/live")
        return
    try:
        found = client.call("GET", f"/sessions/{session}")
    except RefusedError as refusal:
        if not refusal.is_not_found:
            raise
        return
    notice(f"session {session}: {found['message_count']} messages")
    if run_id := found["active_run_id"]:
        notice("The active run:")
        with CancelOnInterrupt(client, session, run_id):
            show(client, client.call("GET", f"/sessions/{session}/runs/{run_id}"), Transcript())
    _answered(client, session, "complete")


def _read_message() -> str | None:
    """Read the next message from the terminal; None ends the conversation."""
    with suppress(ImportError):
        import readline  # noqa: F401  adds line editing and history to `input`
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        typer.echo()
        return None


def _options(pairs: list[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise CommandError(f"--option {pair}: write NAME=VALUE", ExitCode.USAGE)
        try:
            options[name] = codec.decode(value)
        except ValueError:
            options[name] = value
    return options

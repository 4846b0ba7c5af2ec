"""`bamboo tail`: follow the events of sessions."""

from typing import Annotated, Any

import typer

from bamboo_gateway.cli.options import (
    DEFAULT_URL,
    WHICH_SESSION,
    ApiKeyOption,
    JsonOption,
    UrlOption,
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
from bamboo_gateway.domain import codec

TEXT_CHARS = 500
# Every event has these fields, and each has a place of its own in the line or none.
_COLUMNS = ("type", "seq", "time")


def tail(
    sessions: Annotated[
        list[str],
        typer.Argument(help=f"{WHICH_SESSION} Several share a connection.", metavar="ID..."),
    ],
    after: Annotated[
        str | None,
        typer.Option(
            help="Begin after this position (0: from the start). "
            "Default: before the active run's first event, or now. "
            "Of several sessions: the cursor that the command said at its end.",
            metavar="POSITION",
        ),
    ] = None,
    until_complete: Annotated[
        bool, typer.Option("--until-complete", help="End with the run's terminal event.")
    ] = False,
    json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    api_key: ApiKeyOption = None,
) -> None:
    """Follow the events of sessions, each once and in order; reconnect when a connection is lost.

    Watching starts nothing and stops nothing. Ctrl-C exits.
    """
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.event_stream import EventStream

    if len(sessions) > 1:
        _tail_many(sessions, after, until_complete, json, url, api_key)
        return
    with GatewayClient(url, api_key) as client:
        session = whole_id(client, sessions[0])
        stream = EventStream(
            client,
            session,
            after=after,
            until_complete=until_complete,
            notify=notice,
            on_idle=None if until_complete else lambda: _say_idle(session, after),
        )
        try:
            for position, event, data in stream:
                if json:
                    print_json(data)
                else:
                    _print_event(position, event)
        except KeyboardInterrupt:
            notice(f"Continue with: bamboo tail {session} --after {stream.position or 0}")
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        if stream.goodbye:
            notice(f"The gateway ended the stream: {stream.goodbye}.")


def _tail_many(
    sessions: list[str],
    after: str | None,
    until_complete: bool,
    json: bool,
    url: str,
    api_key: str | None,
) -> None:
    from bamboo_gateway.cli.client import GatewayClient
    from bamboo_gateway.cli.joint_event_stream import JointEventStream

    if until_complete:
        raise CommandError("--until-complete goes with one session.", ExitCode.USAGE)
    with GatewayClient(url, api_key) as client:
        wanted = list(dict.fromkeys(whole_id(client, session) for session in sessions))
        stream = JointEventStream(client, wanted, after=after, notify=notice)
        width = max(map(len, wanted))
        try:
            for _, event, data in stream:
                if json:
                    print_json(data)
                else:
                    session = event.pop("session_id")
                    _print_event(f"{session:<{width}}  {event.get('seq', '')!s:>6}", event)
        except KeyboardInterrupt:
            notice(f"Continue with: bamboo tail {' '.join(wanted)} --after {stream.position}")
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _say_idle(session: str, after: str | None) -> None:
    what = "waiting for its next event" if after is None else "its events so far, then waiting"
    notice(f"No run is active in session {session}: {what}. Ctrl-C exits.")


def _print_event(position: str, event: dict[str, Any]) -> None:
    words = " ".join(
        f"{name}={_text(value)}" for name, value in event.items() if name not in _COLUMNS
    )
    print_line(f"{position}  {event['type']:<16} {one_line(words, TEXT_CHARS)}".rstrip())


def _text(value: Any) -> str:
    return codec.encode(value).decode()

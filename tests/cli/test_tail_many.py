"""Following several sessions, and the changes of all."""

import json

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def make(gateway: Gateway, *sessions: str) -> None:
    for session in sessions:
        gateway.call("POST", "/sessions", json={"id": session, "title": f"Title {session}"})


def note(gateway: Gateway, session: str, name: str) -> None:
    event = {"type": "custom", "name": name}
    gateway.call("POST", f"/sessions/{session}/events", json=event)


def test_tail_shows_the_events_of_several_sessions_and_goes_on_where_it_was(
    gateway: Gateway, url: str
) -> None:
    make(gateway, "many-a", "many-b")
    with Terminal("tail", "many-a", "many-b", "--after", "0", url=url) as terminal:
        terminal.until("session_created")
        note(gateway, "many-a", "alpha")
        terminal.until("alpha")
        note(gateway, "many-b", "beta")
        terminal.until("beta")
        terminal.type("\x03")
        terminal.until_line("--after")
    said = terminal.screen.split("--after ")[1].split()[0]
    note(gateway, "many-a", "gamma")
    with Terminal("tail", "many-a", "many-b", "--after", said, "--json", url=url) as terminal:
        terminal.until_line("gamma")
        (line,) = [one for one in terminal.screen.splitlines() if one.startswith("{")]
        assert json.loads(line)["session_id"] == "many-a"
        gateway.call("DELETE", "/sessions/many-a")
        terminal.until("many-a: deleted")
        note(gateway, "many-b", "delta")
        terminal.until("delta")
        gateway.call("DELETE", "/sessions/many-b")
        assert terminal.exit_code() == 0


def test_tail_waits_for_the_run_of_one_session_only(url: str, gateway: Gateway) -> None:
    ended = bamboo("tail", "many-x", "many-y", "--until-complete", url=url)
    assert ended.returncode == 2
    assert "--until-complete goes with one session" in ended.stderr


def test_changes_tells_what_has_changed_since_a_cursor(gateway: Gateway, url: str) -> None:
    now = bamboo("changes", url=url)
    assert (now.returncode, now.stdout) == (0, "")
    cursor = now.stderr.split("--after ")[1].split()[0]
    make(gateway, "changed-a", "changed-b")
    gateway.call("DELETE", "/sessions/changed-b")
    told = bamboo("changes", "--after", cursor, url=url)
    assert told.stdout.splitlines() == [
        "changed-a  idle         Title changed-a",
        "changed-b  gone",
    ]
    shown = bamboo("changes", "--after", cursor, "--json", "--type", "user", url=url)
    assert [json.loads(line)["type"] for line in shown.stdout.splitlines()] == [
        "session_changed",
        "session_gone",
    ]


def test_changes_follow_goes_on_telling(gateway: Gateway, url: str) -> None:
    with Terminal("changes", "--follow", url=url) as terminal:
        # Until it is connected nothing is told; what comes before is told to nobody.
        number = 0
        while "follow-" not in terminal.screen:
            make(gateway, f"follow-{number}")
            number += 1
        terminal.type("\x03")
        terminal.until("--follow --after")
        assert terminal.exit_code() == 130

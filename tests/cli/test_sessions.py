import json

from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def create(gateway: Gateway, session: str, **fields: object) -> None:
    gateway.call("POST", "/sessions", json={"id": session, **fields})


def test_list_shows_a_table_and_json_the_sessions_themselves(gateway: Gateway, url: str) -> None:
    create(gateway, "l-1", user_id="lister", title="First [bold]title[/bold]")
    create(gateway, "l-2", user_id="lister")
    table = bamboo("sessions", "list", "--user-id", "lister", url=url).stdout
    assert "First [bold]title[/bold]" in table
    lines = bamboo(
        "sessions", "list", "--user-id", "lister", "--sort-by", "created_at", "--json", url=url
    ).stdout.splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"l-1", "l-2"}


def test_an_id_is_never_cut(gateway: Gateway, url: str) -> None:
    longest = "cut-" + "x" * 120 + "-end"
    create(gateway, longest, user_id="cutter", title="A title " * 20)
    create(gateway, "cut-short", user_id="cutter", title="短い題名")
    listing = ("sessions", "list", "--user-id", "cutter")
    for row in bamboo(*listing, url=url).stdout.splitlines()[1:]:
        assert row.split()[0] in {longest, "cut-short"}
    with Terminal(*listing, url=url, columns=80) as terminal:
        assert terminal.exit_code() == 0
        assert longest in terminal.screen
        (short,) = (row for row in terminal.screen.splitlines() if row.startswith("cut-short"))
        assert "短い題名" in short
    assert longest in bamboo("tree", longest, url=url).stdout
    with Terminal("tree", longest, url=url, columns=80) as terminal:
        assert terminal.exit_code() == 0
        assert longest in terminal.screen


def test_a_title_is_cut_where_the_terminal_ends(gateway: Gateway, url: str) -> None:
    create(gateway, "titled", user_id="titler", title="A title " * 20)
    with Terminal("sessions", "list", "--user-id", "titler", url=url, columns=80) as terminal:
        assert terminal.exit_code() == 0
        header, row = terminal.screen.splitlines()
    assert header.startswith("ID")
    assert len(row) == 80
    assert row.endswith("…")


def test_filters_are_passed_on(gateway: Gateway, url: str) -> None:
    create(gateway, "f-1", user_id="filterer", title="Alpha", session_type="scheduled")
    create(gateway, "f-2", user_id="filterer", title="Beta")

    def listed(*flags: str) -> list[str]:
        text = bamboo("sessions", "list", "--user-id", "filterer", "--json", *flags, url=url).stdout
        return [json.loads(line)["id"] for line in text.splitlines()]

    assert listed("--title-contains", "aLPHa") == ["f-1"]
    assert listed("--session-type", "scheduled") == ["f-1"]
    assert listed("--state", "closed") == []
    assert listed("--created-after", "2999-01-01T00:00:00Z") == []
    assert listed("--sort-by", "title", "--sort-order", "asc") == ["f-1", "f-2"]
    assert listed("--sort-by", "title", "--sort-order", "desc", "--limit", "1") == ["f-2"]


def test_the_gateway_explains_a_filter_that_it_does_not_know(url: str) -> None:
    ended = bamboo("sessions", "list", "--state", "asleep", url=url)
    assert ended.returncode == 1
    assert ended.stderr.rstrip().endswith("(invalid)")


def test_a_list_longer_than_a_page_is_read_to_its_end(gateway: Gateway, url: str) -> None:
    create(gateway, "long")
    count = 1203
    for start in range(0, count, 401):
        texts = [{"role": "user", "content": f"m{n}"} for n in range(start, start + 401)]
        gateway.call("POST", "/sessions/long/messages", json=texts)
    shown = json.loads(bamboo("sessions", "show", "long", "--messages", "--json", url=url).stdout)
    assert [message["content"] for message in shown["messages"]] == [f"m{n}" for n in range(count)]


def test_show_prints_the_fields_and_the_conversation(gateway: Gateway, url: str) -> None:
    create(gateway, "shown", title="A title\x1b[31m")
    gateway.call(
        "POST",
        "/chat",
        json={"message": "hello there", "session_id": "shown", "options": {"delay_ms": 0}},
        headers={"Prefer": "wait=20"},
    )
    text = bamboo("sessions", "show", "shown", "-m", url=url).stdout
    assert "\x1b" not in text
    assert "A title\\u001b[31m" in text
    assert "hello there" in text
    assert "→ count_words" in text
    assert "Every word of this answer" in text
    shown = json.loads(bamboo("sessions", "show", "shown", "--json", url=url).stdout)
    assert shown["id"] == "shown"
    assert "messages" not in shown


def test_delete_asks_and_does_nothing_after_no(gateway: Gateway, url: str) -> None:
    create(gateway, "kept")
    with Terminal("sessions", "delete", "kept", url=url) as terminal:
        terminal.until("Delete kept for good?")
        terminal.type("n\n")
        assert terminal.exit_code() == 1
    assert gateway.call("GET", "/sessions/kept")["id"] == "kept"


def test_delete_deletes_after_yes_and_with_the_option_yes(gateway: Gateway, url: str) -> None:
    for session in ("d-1", "d-2", "d-3"):
        create(gateway, session)
    with Terminal("sessions", "delete", "d-1", url=url) as terminal:
        terminal.until("for good?")
        terminal.type("y\n")
        terminal.until("deleted d-1")
        assert terminal.exit_code() == 0
    assert bamboo("sessions", "delete", "--yes", "d-2", "d-3", url=url).returncode == 0
    for session in ("d-1", "d-2", "d-3"):
        assert gateway.http.get(f"/sessions/{session}").status_code == 404


def test_delete_without_a_terminal_needs_the_option_yes(gateway: Gateway, url: str) -> None:
    create(gateway, "silent")
    ended = bamboo("sessions", "delete", "silent", url=url)
    assert ended.returncode == 2
    assert "--yes" in ended.stderr
    assert gateway.call("GET", "/sessions/silent")["id"] == "silent"


def test_sessions_are_closed_and_reopened(gateway: Gateway, url: str) -> None:
    create(gateway, "cl-1")
    create(gateway, "cl-2", ttl_seconds=60)
    assert bamboo("sessions", "close", "cl-1", "cl-2", url=url).stdout == (
        "cl-1  closed\ncl-2  closed\n"
    )
    assert (
        gateway.http.post("/chat", json={"session_id": "cl-1", "message": "hi"}).status_code == 409
    )
    assert bamboo("sessions", "reopen", "cl-1", url=url).stdout == "cl-1  idle\n"
    reopened = bamboo("sessions", "reopen", "cl-2", "--json", url=url).stdout
    assert json.loads(reopened)["ttl_seconds"] == 60
    assert (
        gateway.http.post("/chat", json={"session_id": "cl-1", "message": "hi"}).status_code == 202
    )


def test_reopening_sets_or_removes_the_time_to_live(gateway: Gateway, url: str) -> None:
    create(gateway, "ttl-1", ttl_seconds=60)

    def reopened(*flags: str) -> object:
        bamboo("sessions", "close", "ttl-1", url=url)
        text = bamboo("sessions", "reopen", "ttl-1", "--json", *flags, url=url).stdout
        return json.loads(text)["ttl_seconds"]

    assert reopened("--ttl", "120") == 120
    assert reopened("--no-ttl") is None
    both = bamboo("sessions", "reopen", "ttl-1", "--ttl", "5", "--no-ttl", url=url)
    assert both.returncode == 2
    assert "exclude each other" in both.stderr

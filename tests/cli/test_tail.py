import json
from pathlib import Path

from tests.cli.fake_servers import fake_server, stream
from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway


def chat(gateway: Gateway, session: str, **options: object) -> None:
    gateway.call(
        "POST",
        "/chat",
        json={"message": "hi", "session_id": session, "options": {"delay_ms": 0, **options}},
        headers={} if "hold" in options else {"Prefer": "wait=20"},
    )


def test_json_prints_every_event_of_the_log_unchanged(gateway: Gateway, url: str) -> None:
    chat(gateway, "t-json")
    ended = bamboo("tail", "t-json", "--after", "0", "--until-complete", "--json", url=url)
    assert ended.returncode == 0
    assert [json.loads(line) for line in ended.stdout.splitlines()] == gateway.events("t-json")
    assert ended.stderr == ""


def test_text_prints_one_line_per_event_with_its_position(gateway: Gateway, url: str) -> None:
    chat(gateway, "t-text")
    log = gateway.events("t-text")
    ended = bamboo("tail", "t-text", "--after", "0", "--until-complete", url=url)
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert [(int(at.split("-")[1]), kind) for at, kind, *_ in lines] == [
        (event["seq"], event["type"]) for event in log
    ]


def test_after_begins_the_output_at_that_position(gateway: Gateway, url: str) -> None:
    chat(gateway, "t-after")
    log = gateway.events("t-after")
    ended = bamboo("tail", "t-after", "--after", str(len(log) - 2), "--until-complete", url=url)
    assert len(ended.stdout.splitlines()) == 2


def test_a_run_that_has_ended_already_leaves_nothing_to_follow(gateway: Gateway, url: str) -> None:
    chat(gateway, "t-over")
    ended = bamboo("tail", "t-over", "--until-complete", url=url)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_a_deleted_session_ends_the_output_with_the_reason(gateway: Gateway, url: str) -> None:
    gateway.call("POST", "/sessions", json={"id": "t-deleted", "title": "doomed"})
    with Terminal("tail", "t-deleted", "--after", "0", url=url) as terminal:
        terminal.until("session_created")
        gateway.call("DELETE", "/sessions/t-deleted")
        terminal.until("deleted")
        assert terminal.exit_code() == 0


def test_a_notice_on_stderr_says_that_an_idle_session_is_waited_for(
    gateway: Gateway, url: str
) -> None:
    chat(gateway, "t-idle")
    with Terminal("tail", "t-idle", url=url) as terminal:
        terminal.until_line("No run is active in session t-idle: waiting for its next event")
        gateway.call("POST", "/sessions/t-idle/events", json={"type": "custom", "name": "late"})
        terminal.until_line('name="late"')
        assert terminal.screen.count("waiting") == 1
    frames = (
        'id: 1-5\ndata: {"type":"open","position":"1-5","active_run_id":null}\n\n'
        'id: 1-5\ndata: {"type":"goodbye","reason":"closed","retry":false}\n\n'
    )
    with fake_server(stream(frames)) as address:
        ended = bamboo("tail", "t-idle", "--json", url=address)
    assert ended.stdout == ""
    assert "waiting" in ended.stderr


def test_an_active_run_shows_no_notice_of_waiting(gateway: Gateway, url: str) -> None:
    chat(gateway, "t-busy", hold="middle")
    with Terminal("tail", "t-busy", url=url) as terminal:
        terminal.until("token")
        assert "waiting" not in terminal.screen
    gateway.call("POST", "/sessions/t-busy/cancel")


def test_ctrl_c_exits_and_says_how_to_continue(gateway: Gateway, url: str) -> None:
    gateway.call("POST", "/sessions", json={"id": "t-left"})
    with Terminal("tail", "t-left", "--after", "0", url=url) as terminal:
        terminal.until("session_created")
        terminal.type("\x03")
        position = gateway.call("GET", "/sessions/t-left")["position"]
        terminal.until(f"bamboo tail t-left --after {position}")
        assert terminal.exit_code() == 130


def test_tail_continues_across_a_kill_without_missing_or_doubling(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        chat(gateway, "s", hold="middle")
        with Terminal("tail", "s", "--after", "0", "--json", url=gateway.url) as terminal:
            terminal.until('"type":"token"')
            gateway.kill()
            terminal.until("connection lost")
            gateway.start()
            terminal.until("connected again")
            gateway.call("POST", "/sessions/s/events", json={"type": "custom", "name": "end"})
            terminal.until_line('"name":"end"')
            lines = [line for line in terminal.screen.splitlines() if line.startswith("{")]
            assert [json.loads(line) for line in lines] == gateway.events("s")


def test_control_sequences_of_the_server_never_reach_the_terminal() -> None:
    evil = "\x1b]0;owned\x07\x9b31m\u202e\x7f"
    frames = [
        "id: 1-0\ndata: "
        + json.dumps({"type": "open", "position": "1-0"})
        + "\n\nid: 1-1\ndata: "
        + json.dumps({"type": "custom", "name": evil, "value": evil}, ensure_ascii=False)
        + '\n\nid: 1-2\ndata: {"type":"goodbye","reason":"deleted","retry":false}\n\n'
    ]
    with fake_server(stream(*frames)) as url:
        for flags in ([], ["--json"]):
            ended = bamboo("tail", "s", *flags, url=url)
            assert ended.returncode == 0
            assert not set(ended.stdout) & set("\x1b\x07\x9b\u202e\x7f")
            if flags:
                assert json.loads(ended.stdout)["value"] == evil


def test_a_reset_is_shown_and_the_stream_goes_on() -> None:
    frames = (
        'id: 2-5\ndata: {"type":"open","position":"2-5"}\n\n'
        'id: 2-5\ndata: {"type":"reset","reason":"epoch_changed","position":"2-5"}\n\n'
        'id: 2-6\ndata: {"type":"custom","name":"after","value":1}\n\n'
        'id: 2-6\ndata: {"type":"goodbye","reason":"closed","retry":false}\n\n'
    )
    with fake_server(stream(frames)) as url:
        ended = bamboo("tail", "s", url=url)
    first, second = ended.stdout.splitlines()
    assert first.startswith("2-5  reset")
    assert "epoch_changed" in first
    assert second.startswith("2-6  custom")
    assert "closed" in ended.stderr


def test_an_endless_line_is_refused_before_it_fills_the_memory() -> None:
    with fake_server(stream("data: ", *["x" * (1 << 20)] * 65)) as url:
        ended = bamboo("tail", "s", url=url)
    assert ended.returncode == 1
    assert "too long" in ended.stderr

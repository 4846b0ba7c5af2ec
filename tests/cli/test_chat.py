from pathlib import Path

from tests.cli.fake_servers import lossy_proxy
from tests.cli.running import Terminal, bamboo
from tests.processes import Gateway
from tests.support.waiting import until

FAST = ("-o", "delay_ms=0")


def messages(gateway: Gateway, session: str) -> list[tuple[str, str]]:
    page = gateway.call("GET", f"/sessions/{session}/messages")
    return [(message["role"], message["content"]) for message in page["messages"]]


def statuses(gateway: Gateway, session: str) -> list[str]:
    page = gateway.call("GET", f"/sessions/{session}/runs")
    return [run["status"] for run in page["runs"]]


def test_one_message_prints_thinking_tools_and_the_answer(gateway: Gateway, url: str) -> None:
    ended = bamboo("chat", "two words", "-s", "c-1", *FAST, url=url)
    assert ended.returncode == 0
    thought, call, result, answer = ended.stdout.splitlines()
    assert thought.startswith("Let me see")
    assert call == '→ count_words {"text":"two words"}'
    assert result == '← {"words":2,"characters":9}'
    assert messages(gateway, "c-1")[-1] == ("assistant", answer)


def test_without_a_session_a_new_one_is_begun_and_named(gateway: Gateway, url: str) -> None:
    ended = bamboo("chat", "hi", *FAST, url=url)
    name = ended.stderr.split()[1]
    assert messages(gateway, name)[0] == ("user", "hi")


def test_a_message_can_come_on_standard_input(gateway: Gateway, url: str) -> None:
    assert bamboo("chat", "-s", "c-stdin", *FAST, url=url, stdin="from a pipe").returncode == 0
    assert messages(gateway, "c-stdin")[0] == ("user", "from a pipe")


def test_an_empty_message_is_a_usage_error(url: str) -> None:
    assert bamboo("chat", url=url, stdin=" \n").returncode == 2
    assert bamboo("chat", " ", url=url).returncode == 2


def test_a_run_that_fails_is_reported_and_exits_with_1(url: str) -> None:
    ended = bamboo("chat", "hi", *FAST, "-o", "fail=broken_on_purpose", url=url)
    assert ended.returncode == 1
    assert "broken_on_purpose" in ended.stdout


def test_an_unknown_agent_and_a_bad_option_are_explained(url: str) -> None:
    unknown = bamboo("chat", "hi", "--agent", "nobody", url=url)
    assert unknown.returncode == 1
    assert "nobody" in unknown.stderr
    assert bamboo("chat", "hi", "-o", "novalue", url=url).returncode == 2


def test_control_sequences_in_an_answer_are_shown_and_not_obeyed(url: str) -> None:
    ended = bamboo("chat", "hi", *FAST, "-o", 'text="\\u001b[2J gone \\u009b1m"', url=url)
    assert ended.stdout.splitlines()[-1] == "\\u001b[2J gone \\u009b1m"


def test_a_post_whose_answer_was_lost_is_repeated_and_carried_out_once(gateway: Gateway) -> None:
    with lossy_proxy(gateway.port, lose=2) as url, Terminal("chat", url=url) as terminal:
        terminal.until_asked()
        terminal.type("only once\n")
        terminal.until("Sending again")
        terminal.until("nothing is missing.")
        terminal.until_asked()
        terminal.type("\x04")
        assert terminal.exit_code() == 0
        name = terminal.screen.split("--session ")[1].split()[0]
    assert [text for role, text in messages(gateway, name) if role == "user"] == ["only once"]
    assert statuses(gateway, name) == ["completed"]


def test_a_conversation_goes_on_in_one_session_until_ctrl_d(gateway: Gateway, url: str) -> None:
    with Terminal("chat", "--session", "c-repl", *FAST, url=url) as terminal:
        terminal.until_asked()
        terminal.type("first\n")
        terminal.until("“first”")
        terminal.until_asked()
        terminal.type("second\n")
        terminal.until("“second”")
        until(lambda: statuses(gateway, "c-repl") == ["completed"] * 2, "both turns are over")
        terminal.until_asked()
        terminal.type("\x04")
        assert terminal.exit_code() == 0
    users = [text for role, text in messages(gateway, "c-repl") if role == "user"]
    assert users == ["first", "second"]


def test_ctrl_c_cancels_the_run_and_not_the_program(gateway: Gateway, url: str) -> None:
    with Terminal("chat", "-s", "c-cancel", *FAST, "-o", "hold=middle", url=url) as terminal:
        terminal.until_asked()
        terminal.type("never ends\n")
        terminal.until("“never")
        terminal.type("\x03")
        terminal.until("The run was cancelled")
        terminal.until_asked()
        terminal.type("\x04")
        terminal.until("bamboo chat --session c-cancel")
        assert terminal.exit_code() == 0
    assert statuses(gateway, "c-cancel") == ["cancelled"]


def test_a_single_message_that_is_cancelled_exits_with_130(gateway: Gateway, url: str) -> None:
    command = ("chat", "never ends", "-s", "c-one", *FAST, "-o", "hold=middle")
    with Terminal(*command, url=url) as terminal:
        terminal.until("“never")
        terminal.type("\x03")
        assert terminal.exit_code() == 130
    assert statuses(gateway, "c-one") == ["cancelled"]


def test_a_continued_conversation_shows_the_active_run(gateway: Gateway, url: str) -> None:
    body = {"message": "hi", "session_id": "c-up", "options": {"delay_ms": 0, "hold": "middle"}}
    gateway.call("POST", "/chat", json=body)
    with Terminal("chat", "-s", "c-up", url=url) as terminal:
        terminal.until("The active run:")
        terminal.until("“hi”")
        gateway.call("POST", "/sessions/c-up/cancel")
        terminal.until("The run was cancelled")
        terminal.until_asked()


def test_an_answer_goes_on_across_a_restart_without_doubling(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        command = ("chat", "hold on", "-s", "s", *FAST, "-o", "hold=middle")
        with Terminal(*command, url=gateway.url) as terminal:
            terminal.until("“hold")
            gateway.kill()
            terminal.until("connection lost")
            gateway.start()
            terminal.until("The run failed")
            assert terminal.exit_code() == 1
            assert terminal.screen.count("“hold") == 1
            assert "connected again" in terminal.screen
        assert statuses(gateway, "s") == ["interrupted"]

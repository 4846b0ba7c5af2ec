"""`bamboo regenerate` and `bamboo branches`."""

from tests.cli.running import bamboo


def test_an_answer_is_made_again_and_the_first_branch_selected_again(url: str) -> None:
    said = bamboo("chat", "Hello", "--session", "cli-branches", "--url", url)
    assert said.returncode == 0, said.stderr
    again = bamboo("regenerate", "cli-branches", "--url", url)
    assert again.returncode == 0, again.stderr
    assert "Hello" in again.stdout
    listed = bamboo("branches", "list", "cli-branches", "--url", url).stdout.splitlines()
    assert [line[0] for line in listed] == [" ", "*"]
    assert listed[0].split()[0] == "main"
    selected = bamboo("branches", "select", "cli-branches", "main", "--url", url)
    assert selected.stdout.startswith("* main")
    assert bamboo("branches", "select", "cli-branches", "none", "--url", url).returncode == 1
    assert bamboo("regenerate", "cli-branches", "msg_none", "--url", url).returncode == 1

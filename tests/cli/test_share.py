"""`bamboo share`: a link from the terminal opens the session, until it is revoked."""

import json

import httpx

from tests.cli.running import bamboo
from tests.processes import Gateway


def test_a_session_is_shared_listed_and_revoked(gateway: Gateway, url: str) -> None:
    gateway.call("POST", "/sessions", json={"id": "sh-1", "title": "Shown", "user_id": "alice"})
    made = bamboo("share", "create", "sh-1", "--user", "bob", url=url)
    assert made.returncode == 0
    assert made.stdout.split()[1:] == ["bob"]
    linked = bamboo("share", "create", "sh-1", "--link", "--expires-in", "60", url=url)
    link = linked.stdout.strip()
    assert "shown only this once" in linked.stderr
    assert httpx.get(link, trust_env=False, timeout=60).text.startswith("# Shown")
    listed = bamboo("share", "list", "sh-1", url=url).stdout.splitlines()
    assert [line.split()[1] for line in listed] == ["bob", "by"]
    assert link.partition("share=")[2] not in "".join(listed)
    shapes = bamboo("share", "list", "sh-1", "--json", url=url).stdout.splitlines()
    # Who looks is the operator here: it sees all, and nothing is shared with it.
    assert "sh-1" not in bamboo("sessions", "list", "--shared", url=url).stdout
    for shape in map(json.loads, shapes):
        assert bamboo("share", "revoke", "sh-1", shape["id"], url=url).returncode == 0
    assert bamboo("share", "list", "sh-1", url=url).stdout == ""
    assert httpx.get(link, trust_env=False, timeout=60).status_code == 401
    gone = bamboo("share", "revoke", "sh-1", json.loads(shapes[0])["id"], url=url)
    assert gone.returncode == 1
    assert "(share-not-found)" in gone.stderr


def test_a_share_is_for_a_user_or_a_link(gateway: Gateway, url: str) -> None:
    for given in ([], ["--user", "bob", "--link"]):
        refused = bamboo("share", "create", "sh-2", *given, url=url)
        assert refused.returncode == 2
        assert "--user USER, or --link" in refused.stderr

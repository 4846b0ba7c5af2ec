"""Webhooks over HTTP: who may do what, secrets that are shown once, deliveries."""

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from standardwebhooks import Webhook

from bamboo_gateway.domain.limits import WEBHOOK_DELIVERIES_KEPT
from tests.api.keyed import bearer, keyed
from tests.api.serving import Served, refused, serving
from tests.api.users import serving_users, user
from tests.support.waiting import until
from tests.webhooks.receiving import Receiver, receiver, status

URL = "https://hooks.example.com/x"
NEW = {"url": URL, "events": ["run.ended"]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving_users(
        webhook_private_addresses=True, public_url="https://chat.example.com/bamboo"
    ) as running:
        yield running


@pytest.fixture
def operator(served: Served) -> Iterator[httpx.Client]:
    with served.client() as client:
        yield client
        for webhook in client.get("/webhooks").json()["webhooks"]:
            client.delete(f"/webhooks/{webhook['id']}")


@pytest.fixture
def to() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def create(client: httpx.Client, **changed: object) -> dict[str, str]:
    answer = client.post("/webhooks", json={**NEW, **changed})
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/api/v1/webhooks/{answer.json()['id']}"
    made: dict[str, str] = answer.json()
    return made


def test_a_secret_is_shown_once(operator: httpx.Client) -> None:
    made = create(operator)
    assert made["secret"].startswith("whsec_")
    shown = operator.get(f"/webhooks/{made['id']}").json()
    assert shown == {name: value for name, value in made.items() if name != "secret"}
    assert operator.get("/webhooks").json()["webhooks"] == [shown]


def test_a_repeat_with_the_same_key_makes_no_second_webhook(operator: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once"}
    first = operator.post("/webhooks", json=NEW, headers=headers)
    again = operator.post("/webhooks", json=NEW, headers=headers)
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert "secret" not in again.json()
    other = operator.post("/webhooks", json={**NEW, "url": URL + "y"}, headers=headers)
    refused(other, 422, "idempotency-key-reused")
    assert len(operator.get("/webhooks").json()["webhooks"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"url": URL},
        {"url": URL, "events": []},
        {"url": URL, "events": ["run.begun"]},
        {"url": "", "events": ["run.ended"]},
        {"url": URL, "events": ["run.ended"], "secret": "mine"},
    ],
)
def test_a_wrong_webhook_is_refused(operator: httpx.Client, body: dict[str, object]) -> None:
    refused(operator.post("/webhooks", json=body), 422, "invalid")


@pytest.mark.parametrize("url", ["http://x y/", "https://user@x/", "ftp://x/", "https://x/#y"])
def test_a_url_that_cannot_be_is_refused(operator: httpx.Client, url: str) -> None:
    refused(operator.post("/webhooks", json={**NEW, "url": url}), 422, "webhook-url-refused")
    made = create(operator)
    changed = operator.patch(f"/webhooks/{made['id']}", json={"url": url})
    refused(changed, 422, "webhook-url-refused")


def test_without_the_setting_nothing_private_is_named_or_reached(to: Receiver) -> None:
    with serving() as strict, strict.client() as client:
        for url in (to.url, f"https://127.0.0.1:{to.port}/", "https://localhost/", "https://db/"):
            refused(client.post("/webhooks", json={**NEW, "url": url}), 422, "webhook-url-refused")
    assert to.received == []


def test_a_run_is_told_with_a_link_and_a_good_signature(
    operator: httpx.Client, to: Receiver
) -> None:
    made = create(operator, url=to.url)
    session_id = f"told-{time.monotonic_ns()}"
    chat = operator.post("/chat", json={"session_id": session_id, "message": "hi"}).json()
    until(lambda: to.received, "the run is told")
    (got,) = to.received
    told = Webhook(made["secret"]).verify(got.body, got.headers)
    assert told["type"] == "run.ended"
    assert told["data"]["run_id"] == chat["run_id"]
    assert told["data"]["url"] == f"https://chat.example.com/bamboo/api/v1/sessions/{session_id}"
    run = operator.get(f"/sessions/{session_id}/runs/{chat['run_id']}").json()
    assert told["data"]["status"] == run["status"]
    path = f"/webhooks/{made['id']}/deliveries"
    until(lambda: operator.get(path).json()["deliveries"], "the delivery is kept")
    (delivery,) = operator.get(path).json()["deliveries"]
    assert delivery["message_id"] == got.headers["webhook-id"]
    assert (delivery["status"], delivery["error"], delivery["attempt"]) == (204, None, 1)


def test_a_test_is_sent_at_once_and_says_what_became_of_it(
    operator: httpx.Client, to: Receiver
) -> None:
    made = create(operator, url=to.url)
    good = operator.post(f"/webhooks/{made['id']}/test").json()
    assert (good["type"], good["status"], good["error"]) == ("webhook.test", 204, None)
    Webhook(made["secret"]).verify(to.received[0].body, to.received[0].headers)
    to.answer = status(302, Location="http://127.0.0.1:1/")
    bad = operator.post(f"/webhooks/{made['id']}/test").json()
    assert (bad["status"], bad["error"]) == (302, "status")
    assert len(to.received) == 2


def test_a_rotated_secret_signs_beside_the_one_before(operator: httpx.Client, to: Receiver) -> None:
    made = create(operator, url=to.url)
    path = f"/webhooks/{made['id']}"
    headers = {"Idempotency-Key": "turn"}
    second = operator.post(f"{path}/rotate", json={}, headers=headers).json()
    again = operator.post(f"{path}/rotate", json={}, headers=headers)
    assert "secret" not in again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    operator.post(f"{path}/test")
    for secret in (made["secret"], second["secret"]):
        Webhook(secret).verify(to.received[-1].body, to.received[-1].headers)
    third = operator.post(f"{path}/rotate", json={"overlap_seconds": 0}).json()
    operator.post(f"{path}/test")
    Webhook(third["secret"]).verify(to.received[-1].body, to.received[-1].headers)
    assert third["secrets"] == 1
    assert len(to.received[-1].headers["webhook-signature"].split()) == 1


def test_a_disabled_webhook_is_told_nothing(operator: httpx.Client, to: Receiver) -> None:
    made = create(operator, url=to.url)
    path = f"/webhooks/{made['id']}"
    off = operator.patch(path, json={"enabled": False}).json()
    assert (off["enabled"], off["disabled_reason"]) == (False, "request")
    operator.post("/chat", json={"message": "hi"}, headers={"Prefer": "wait=30"})
    on = operator.patch(path, json={"enabled": True, "events": ["session.created"]}).json()
    assert (on["enabled"], on["disabled_reason"]) == (True, None)
    session = operator.post("/sessions", json={}).json()
    until(lambda: to.received, "the session is told")
    assert [json.loads(one.body)["data"]["session_id"] for one in to.received] == [session["id"]]


def test_deliveries_are_pages_of_the_latest(operator: httpx.Client, to: Receiver) -> None:
    made = create(operator, url=to.url)
    path = f"/webhooks/{made['id']}"
    ids = [operator.post(f"{path}/test").json()["message_id"] for _ in range(5)]
    shown: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = operator.get(f"{path}/deliveries", params=query).json()
        shown += [one["message_id"] for one in page["deliveries"]]
        cursor = page["next_cursor"]
        if not page["has_more"]:
            break
    assert shown == ids[::-1]
    refused(operator.get(f"{path}/deliveries?cursor=x"), 422, "invalid-cursor")
    assert len(shown) < WEBHOOK_DELIVERIES_KEPT


def test_a_users_webhooks_are_the_users_alone(served: Served, operator: httpx.Client) -> None:
    with user(served, "alice") as alice, user(served, "bob") as bob:
        hers = create(alice)
        assert hers["user_id"] == "alice"
        his = create(bob)
        all_of = create(operator)
        assert [one["id"] for one in alice.get("/webhooks").json()["webhooks"]] == [hers["id"]]
        everybodys = [one["id"] for one in operator.get("/webhooks").json()["webhooks"]]
        assert everybodys == [hers["id"], his["id"], all_of["id"]]
        unknown = "wh_none"
        for other in (his["id"], all_of["id"], unknown):
            for method, path, body in (
                ("GET", "", None),
                ("PATCH", "", {"enabled": False}),
                ("DELETE", "", None),
                ("GET", "/deliveries", None),
                ("POST", "/test", None),
                ("POST", "/rotate", {}),
            ):
                answer = alice.request(method, f"/webhooks/{other}{path}", json=body)
                refused(answer, 404, "webhook-not-found")
        assert operator.get(f"/webhooks/{his['id']}").json()["enabled"]
        refused(alice.post("/webhooks", json={**NEW, "user_id": "bob"}), 403, "forbidden")
        mine = f"/webhooks/{hers['id']}"
        refused(alice.patch(mine, json={"user_id": "bob"}), 403, "forbidden")
        refused(alice.patch(mine, json={"user_id": None}), 403, "forbidden")
        assert alice.delete(mine).status_code == 204
        refused(alice.get(mine), 404, "webhook-not-found")
    with user(served, "alice", only_session="s") as ticket:
        refused(ticket.get("/webhooks"), 403, "forbidden")


def test_webhooks_are_few() -> None:
    with (
        serving_users(max_webhooks=3, max_webhooks_per_user=2) as few,
        user(few, "alice") as alice,
        few.client() as operator,
    ):
        create(alice)
        create(alice)
        refused(alice.post("/webhooks", json=NEW), 429, "too-many-webhooks")
        create(operator)
        refused(operator.post("/webhooks", json=NEW), 429, "too-many-webhooks")


def test_a_service_key_needs_admin_for_everybodys_sessions(tmp_path) -> None:
    with keyed(tmp_path) as gateway:
        service = gateway.make(None, "read", "write")[1]
        admin = gateway.make(None, "read", "write", "admin")[1]
        reader = gateway.make("alice", "read")[1]
        refused(gateway.ask("POST", "/webhooks", bearer(service), json=NEW), 403, "forbidden")
        refused(gateway.ask("GET", "/webhooks", bearer(service)), 403, "forbidden")
        refused(gateway.ask("POST", "/webhooks", bearer(reader), json=NEW), 403, "forbidden")
        assert gateway.ask("GET", "/webhooks", bearer(reader)).status_code == 200
        for key, headers in ((admin, {}), (service, {"X-User-Id": "alice"})):
            sent = bearer(key, **headers)
            assert gateway.ask("POST", "/webhooks", sent, json=NEW).status_code == 201


def test_what_changes_a_webhook_is_in_the_audit_log(tmp_path) -> None:
    audit = tmp_path / "audit.jsonl"
    with serving(audit_log=audit) as served, served.client() as client:
        made = create(client)
        client.patch(f"/webhooks/{made['id']}", json={"enabled": False})
        client.post(f"/webhooks/{made['id']}/rotate", json={})
        client.delete(f"/webhooks/{made['id']}")
    records = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert [(one["action"], one["targets"]) for one in records] == [
        (f"{verb}-webhook", [made["id"]]) for verb in ("create", "change", "rotate", "delete")
    ]
    assert made["secret"] not in audit.read_text("utf-8")

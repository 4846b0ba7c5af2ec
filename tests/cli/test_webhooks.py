"""`bamboo webhooks`: from a secret to the deliveries."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.cli.running import bamboo
from tests.processes import Gateway
from tests.webhooks.receiving import receiver, status


@pytest.fixture
def open_gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path, {"BAMBOO_WEBHOOK_PRIVATE_ADDRESSES": "true"}) as running:
        yield running


def test_a_webhook_is_created_tested_rotated_and_deleted(open_gateway: Gateway) -> None:
    url = open_gateway.url
    with receiver() as to:
        made = bamboo("webhooks", "create", to.url, "--event", "run.ended", url=url)
        secret = made.stdout.strip()
        assert "shown only this once" in made.stderr
        webhook = made.stderr.split(":")[0]
        listed = bamboo("webhooks", "list", url=url).stdout
        assert listed.split() == [webhook, "enabled", to.url]
        assert bamboo("webhooks", "test", webhook, url=url).stdout.startswith("204")
        Webhook(secret).verify(to.received[0].body, to.received[0].headers)
        rotated = bamboo("webhooks", "rotate", webhook, "--overlap", "0", url=url).stdout.strip()
        to.answer = status(500)
        failed = bamboo("webhooks", "test", webhook, url=url)
        assert failed.returncode == 1
        Webhook(rotated).verify(to.received[1].body, to.received[1].headers)
        shown = bamboo("webhooks", "deliveries", webhook, "--json", url=url).stdout.splitlines()
        assert [json.loads(line)["status"] for line in shown] == [500, 204]
        assert "#1  webhook.test" in bamboo("webhooks", "deliveries", webhook, url=url).stdout
    assert bamboo("webhooks", "disable", webhook, url=url).returncode == 0
    assert "disabled (request)" in bamboo("webhooks", "show", webhook, url=url).stdout
    assert bamboo("webhooks", "enable", webhook, url=url).returncode == 0
    assert json.loads(bamboo("webhooks", "show", webhook, "--json", url=url).stdout)["enabled"]
    assert bamboo("webhooks", "delete", webhook, url=url).returncode == 0
    gone = bamboo("webhooks", "show", webhook, url=url)
    assert gone.returncode == 1
    assert "(webhook-not-found)" in gone.stderr
    unreadable = bamboo("webhooks", "show", "a/b", url=url)
    assert unreadable.returncode == 2
    assert "webhook id" in unreadable.stderr

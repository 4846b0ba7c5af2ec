"""The dashboard and the alerts: they stand on metrics that exist, and fire when they should."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bamboo_gateway.api.problems import PROBLEMS
from bamboo_gateway.observability.metrics import FAMILIES, PREFIX
from bamboo_gateway.storage.jsonl.journal.segments import Journal
from tests.api.serving import refused, serving
from tests.observability.promtool import RULES, Values, alerts, check_firing, promtool
from tests.observability.scraping import Scrape

DASHBOARD = json.loads((RULES.parent / "grafana-dashboard.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in alerts()},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in PANELS
        for target in panel["targets"]
    },
}
# What Prometheus and Python's client add of themselves.
GIVEN = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
GIVEN_LABELS = {"job", "instance", "le"}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_metric_and_label_that_is_used_exists(name: str) -> None:
    expression = EXPRESSIONS[name]
    used = set(re.findall(r"\b(up|(?:bamboo|process)_[a-z_]+)", expression)) - GIVEN
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", expression))
    for group in re.findall(r"by \(([^)]*)\)", expression):
        labels |= {label.strip() for label in group.split(",")}
    known: set[str] = set()
    for metric in used:
        family = FAMILIES.get(metric.removeprefix(PREFIX))
        if family is None:
            plain, _, suffix = metric.rpartition("_")
            family = FAMILIES[plain.removeprefix(PREFIX)]
            assert (family.kind, suffix in {"bucket", "sum", "count"}) == ("histogram", True)
        known |= set(family.labels)
        if family.kind == "counter":
            assert re.search(rf"(rate|increase)\({metric}", expression), "a counter only rises"
    assert used or "up{" in expression or "process_" in expression
    assert labels - known <= GIVEN_LABELS


def test_every_label_value_in_an_expression_exists() -> None:
    text = " ".join(EXPRESSIONS.values())
    assert set(re.findall(r'code="([^"]+)"', text)) <= set(PROBLEMS)
    for pattern in re.findall(r'code=~"([^"]+)"', text):
        for part in pattern.split("|"):
            assert [code for code in PROBLEMS if re.fullmatch(part, code)], part


def test_the_dashboards_panels_do_not_overlap_and_use_known_labels() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"][key] for key in "xywh") for panel in DASHBOARD["panels"]]
    for number, (x, y, w, h) in enumerate(places):
        assert x + w <= 24
        for x2, y2, w2, h2 in places[number + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, "panels overlap"
    legends = re.findall(r"\{\{(\w+)\}\}", json.dumps(PANELS))
    assert set(legends) <= {label for f in FAMILIES.values() for label in f.labels} | {"instance"}


def test_every_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}


@pytest.mark.external_service
def test_prometheus_accepts_the_files_and_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    promtool("check", "config", RULES.parent / "prometheus.yml")
    rules = [
        {"record": f"r{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(EXPRESSIONS.values())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), "utf-8")
    promtool("check", "rules", file)


BUCKETS = ["0.025", "0.1", "0.25", "0.5", "+Inf"]


def buckets(metric: str, seconds: float) -> Values:
    """A histogram that only ever sees this value, ten times a minute."""
    return {
        f'{metric}_bucket{{instance="a",le="{bound}"}}': "0+10x30"
        if float(bound) >= seconds
        else "0x30"
        for bound in BUCKETS
    }


def ends(failed: int, completed: int) -> Values:
    series = 'bamboo_runs_ended_total{{instance="a",agent="x",end="{}"}}'
    return {
        series.format("failed"): f"0+{failed}x30",
        series.format("completed"): f"0+{completed}x30",
    }


CASES: dict[str, tuple[Values, Values]] = {
    "BambooDown": (
        {'up{job="bamboo"}': "0x30"},
        {'up{job="bamboo"}': "1x30", 'up{job="x"}': "0x30"},
    ),
    "BambooNotReady": ({"bamboo_ready": "0x30"}, {"bamboo_ready": "0x15 1x15"}),
    "BambooErrors": (
        {'bamboo_problems_total{code="internal"}': "0x18 1x12"},
        {
            'bamboo_problems_total{code="internal"}': "5x30",
            'bamboo_problems_total{code="not-found"}': "0+9x30",
        },
    ),
    "BambooStorageFails": (
        {'bamboo_problems_total{code="storage-full"}': "0x18 3x12"},
        {'bamboo_problems_total{code="storage-full"}': "0x5 3x25"},
    ),
    "BambooDiskFillsUp": (
        {"bamboo_disk_free_bytes": "15e9-1e8x30"},
        {"bamboo_disk_free_bytes": "15e9x30"},
    ),
    "BambooCheckpointsFail": (
        {"bamboo_store_checkpoint_failures_total": "0+1x30"},
        {"bamboo_store_checkpoint_failures_total": "0x15 1x15"},
    ),
    "BambooSlowDisk": (
        buckets("bamboo_store_sync_seconds", 0.2),
        buckets("bamboo_store_sync_seconds", 0.02),
    ),
    "BambooRunsFail": (ends(3, 7), ends(1, 9)),
    "BambooLimitsHit": (
        {'bamboo_problems_total{code="too-many-queued-runs"}': "0+5x30"},
        {
            'bamboo_problems_total{code="too-many-queued-runs"}': "0x12 2x18",
            'bamboo_problems_total{code="not-found"}': "0+5x30",
        },
    ),
    "BambooReadersBehind": (
        {'bamboo_stream_lag_events{quantile="0.9"}': "5000x30"},
        {
            'bamboo_stream_lag_events{quantile="0.9"}': "10x30",
            'bamboo_stream_lag_events{quantile="1"}': "5000x30",
        },
    ),
    "BambooLoopHeldUp": (
        buckets("bamboo_loop_lag_seconds", 0.4),
        buckets("bamboo_loop_lag_seconds", 0.02),
    ),
    "BambooDamageFound": (
        {'bamboo_recovery_found{what="damaged"}': "1x30"},
        {'bamboo_recovery_found{what="torn_bytes"}': "100x30", "bamboo_store_quarantined": "0x30"},
    ),
    "BambooAuditFails": (
        {"bamboo_audit_failures_total": "0x18 1x12"},
        {"bamboo_audit_failures_total": "1x30"},
    ),
    "BambooWebhooksLate": (
        {"bamboo_webhook_backlog_age_seconds": "3500+60x30"},
        {"bamboo_webhook_backlog_age_seconds": "3500x30"},
    ),
    "BambooWebhookDisabled": (
        {'bamboo_webhooks_disabled_total{reason="gone"}': "0x18 1x12"},
        {'bamboo_webhooks_disabled_total{reason="gone"}': "1x30"},
    ),
    "BambooIdentityKeysFail": (
        {
            'bamboo_jwks_fetches_total{end="failed"}': "0+1x30",
            'bamboo_jwks_fetches_total{end="ok"}': "3x30",
        },
        {
            'bamboo_jwks_fetches_total{end="failed"}': "0+1x30",
            'bamboo_jwks_fetches_total{end="ok"}': "0+1x30",
        },
    ),
    "BambooReplicaDied": (
        {"bamboo_store_replica_deaths_total": "0x18 1x12"},
        {"bamboo_store_replica_deaths_total": "1x30"},
    ),
    "BambooTakenForDead": (
        {"bamboo_store_heartbeat_losses_total": "0x18 1x12"},
        {"bamboo_store_heartbeat_losses_total": "1x30"},
    ),
    "BambooHeartbeatLate": (
        {"bamboo_store_heartbeat_age_seconds": "60x30"},
        {"bamboo_store_heartbeat_age_seconds": "2x30"},
    ),
    "BambooNoLeader": (
        {
            'bamboo_store_leader{instance="a"}': "0x30",
            'bamboo_store_replicas{instance="a"}': "1x30",
        },
        {
            'bamboo_store_leader{instance="a"}': "0x30",
            'bamboo_store_leader{instance="b"}': "1x30",
            'bamboo_store_replicas{instance="a"}': "2x30",
        },
    ),
    "BambooBusDown": ({"bamboo_bus_up": "0x30"}, {"bamboo_bus_up": "0x15 1x15"}),
}


@pytest.mark.external_service
def test_each_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path: Path) -> None:
    assert list(CASES) == [rule["alert"] for rule in alerts()]
    cases: list[tuple[str, Values, str, set[str]]] = []
    for alert, (bad, good) in CASES.items():
        cases.append((f"{alert} fires", bad, "20m", {alert}))
        cases.append((f"{alert} is silent", good, "20m", set()))
    check_firing(tmp_path, cases)


# What this machine has left, and how fast it is just now, is its own affair.
OF_THE_MACHINE = ("bamboo_disk_free_", "bamboo_store_sync_seconds", "bamboo_loop_lag_seconds")


def series_of(before: Scrape, after: Scrape) -> Values:
    """Return what Prometheus has when one scrape came before what happened, and others since."""
    return {
        f"{series.name}{{{','.join(f'{k}={json.dumps(v)}' for k, v in series.labels)}}}": (
            f"{before.values.get(series, 0):f}x2 {value:f}x20"
        )
        for series, value in after.values.items()
        if not series.name.startswith(OF_THE_MACHINE)
    }


@pytest.mark.external_service
def test_a_healthy_gateway_raises_no_alert_and_one_with_a_full_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serving(storage_url="jsonl:", data_dir=tmp_path / "data") as served,
        served.client() as api,
    ):
        began = Scrape(served)
        assert api.post("/sessions", json={"id": "s"}).status_code == 201
        refused(api.get("/sessions/none"), 404, "session-not-found")
        well = Scrape(served)

        def full(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "write", full)
            refused(api.post("/sessions", json={"id": "t"}), 503, "storage-full")
        ill = Scrape(served)
    cases: list[tuple[str, Values, str, set[str]]] = [
        ("well", series_of(began, well), "5m", set()),
        ("full", series_of(well, ill), "5m", {"BambooStorageFails"}),
    ]
    check_firing(tmp_path, cases, others_too=True)

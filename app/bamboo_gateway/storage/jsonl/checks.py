"""What diagnostics say of a running store of files: journal, quarantine, catalog and records."""

from collections.abc import Sequence
from typing import Any

from bamboo_gateway.storage.jsonl.examination import Examination
from bamboo_gateway.storage.reports import StoreCheck

_JOURNAL_BYTES_WARN = 256 * 1024 * 1024
"""A checkpoint begins at 16 MiB of journal: a journal of this size means that they fail."""

_JOURNAL_SECONDS_WARN = 60
"""A checkpoint runs every few seconds: a record that waits for a minute means that they fail."""

_CHECKPOINTS_FAIL = "look in the log why checkpoints fail"


def store_checks(
    stats: dict[str, Any], found: Examination, *, checkpoint_interval_seconds: float
) -> list[StoreCheck]:
    """Judge what an examination and the counters say."""
    return [
        _journal(stats),
        _quarantine(stats),
        _catalog(stats, found),
        _records(found),
        _journal_age(found, checkpoint_interval_seconds),
    ]


def _journal(stats: dict[str, Any]) -> StoreCheck:
    size, failures = stats["disk_bytes_journal"], stats["checkpoint_failures_total"]
    seen = f"{size} bytes of journal, {failures} failed checkpoints"
    if failures or size > _JOURNAL_BYTES_WARN:
        return StoreCheck("journal", "warn", seen, _CHECKPOINTS_FAIL)
    return StoreCheck("journal", "ok", seen)


def _quarantine(stats: dict[str, Any]) -> StoreCheck:
    if count := stats["quarantined"]:
        action = "stop, then run bamboo doctor"
        return StoreCheck("quarantine", "warn", f"{count} files were set aside", action)
    return StoreCheck("quarantine", "ok", "nothing was set aside since the start")


def _catalog(stats: dict[str, Any], found: Examination) -> StoreCheck:
    if found.missing or found.strays:
        seen = f"{len(found.missing)} sessions without their files{_some(found.missing)}, "
        seen += f"{len(found.strays)} files of no session{_some(found.strays)}"
        return StoreCheck("catalog", "fail", seen, "stop, then run bamboo doctor")
    return StoreCheck("catalog", "ok", f"{stats['sessions']} sessions, each with its files")


def _records(found: Examination) -> StoreCheck:
    seen = f"{found.looked_at} sessions were read, chosen at random"
    if found.damaged:
        wrong = [f"{session_id}: {problem}" for session_id, problem in found.damaged]
        action = "stop, then run bamboo doctor --repair"
        return StoreCheck("records", "fail", f"{seen}; {'; '.join(wrong[:3])}", action)
    return StoreCheck("records", "ok", f"{seen}, every checksum is right")


def _journal_age(found: Examination, checkpoint_interval_seconds: float) -> StoreCheck:
    seen = f"the oldest journal record has waited {round(found.journal_seconds)} s for its log"
    if found.journal_seconds > max(_JOURNAL_SECONDS_WARN, 10 * checkpoint_interval_seconds):
        return StoreCheck("journal age", "warn", seen, _CHECKPOINTS_FAIL)
    return StoreCheck("journal age", "ok", seen)


def values_check(damage: str | None, disk_bytes: int) -> StoreCheck:
    """Judge the values beside the sessions."""
    if damage is not None:
        action = "restart the gateway, which sets the file aside; then look into quarantine/"
        return StoreCheck("values", "fail", "values.sqlite was found damaged", action)
    return StoreCheck("values", "ok", f"{disk_bytes} bytes of values")


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})" if names else ""

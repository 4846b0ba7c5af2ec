"""Diagnostics: checks of the running gateway, and a bug report of one session."""

import platform
import shutil
import stat
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

from bamboo_gateway import __version__
from bamboo_gateway.agents.base import AgentError
from bamboo_gateway.domain.errors import Conflict, StorageFull
from bamboo_gateway.domain.sessions import SessionHead
from bamboo_gateway.exporters.bug_report import stream_bug_report
from bamboo_gateway.sessions.access import unknown_session
from bamboo_gateway.sessions.answers import CheckResult, CheckStatus, Diagnostics
from bamboo_gateway.sessions.context import Context
from bamboo_gateway.sessions.history import bulk_limiter
from bamboo_gateway.sessions.metadata import view_of
from bamboo_gateway.sessions.registry import SessionRegistry
from bamboo_gateway.sessions.runs.factory import Agents
from bamboo_gateway.sessions.statistics import session_statistics
from bamboo_gateway.storage.base import SessionStore, SupportsChecks, SupportsDirectory

_FREE_BYTES_WARN = 1024 * 1024 * 1024
_FREE_BYTES_FAIL = 64 * 1024 * 1024
"""Below this, little more fits than the journal's reserve for the ends of runs."""
_NEAR = 0.9
"""The part of a limit from which on it counts as nearly reached."""
_EARLIEST_MS = 1_735_689_600_000
"""2025: an earlier clock was never set, and new ids and epochs would not rise."""
_SAMPLE_SESSIONS = 20
_SAMPLE_BYTES = 16 * 1024 * 1024
"""Bytes of sampled sessions to read: well below a second of disk time."""
_PROBE_SECONDS = 3
"""How long an agent may take to answer a probe: a call waits for it."""
_PAGE = 500
_PAGE_BYTES = 1024 * 1024

_WORST_FIRST: Final[tuple[CheckStatus, ...]] = ("fail", "warn", "ok")


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: what it saw, and what to do when it is not `ok`."""

    name: str
    status: CheckStatus
    seen: str
    action: str = ""

    def to_json(self) -> CheckResult:
        """Return the Check of the API."""
        return {
            "name": self.name,
            "status": self.status,
            "seen": self.seen,
            "action": self.action,
        }


async def check_gateway(
    context: Context,
    registry: SessionRegistry,
    streams: int,
    agents: Agents,
    webhooks: tuple[CheckStatus, str, str],
) -> Diagnostics:
    """Check everything that a running gateway depends on. It changes nothing.

    Args:
        context: Has the store, the clock and the limits.
        registry: Knows the sessions in memory.
        streams: How many streams are open.
        agents: The configured agents.
        webhooks: How webhooks fare (`webhooks.reports.check_webhooks`).
    """
    store = context.store
    checks = [_versions(), *_replica(context), _clock(context)]
    if isinstance(store, SupportsDirectory):
        directory = store.directory
        checks += await to_thread.run_sync(lambda: list(_directory_checks(directory)))
    checks += [_writing(store), *await _store_checks(store)]
    checks += [
        *await _limits(context, registry, streams),
        Check("webhooks", *webhooks),
        _agents(list(agents)),
        *await _reachable(agents),
    ]
    statuses = {check.status for check in checks}
    worst = next(status for status in _WORST_FIRST if status in statuses)
    return {"status": worst, "checks": [check.to_json() for check in checks]}


def _versions() -> Check:
    seen = f"bamboo {__version__}, Python {platform.python_version()}, {platform.system()}"
    return Check("versions", "ok", seen)


def _replica(context: Context) -> Iterator[Check]:
    """Say which of several processes answers."""
    replicas = context.store.replicas
    if replicas is not None:
        role = "it leads" if context.leads else "another one leads"
        yield Check("replica", "ok", f"{platform.node()}, executor {replicas.executor}; {role}")


def _clock(context: Context) -> Check:
    if context.clock.now_ms() < _EARLIEST_MS:
        return Check("clock", "fail", "the clock is before 2025", "set the clock")
    return Check("clock", "ok", "the clock is plausible")


def _directory_checks(directory: Path) -> Iterator[Check]:
    try:
        free = shutil.disk_usage(directory).free
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError as error:
        seen = f"the directory of the sessions cannot be read: {error.strerror}"
        yield Check("disk space", "fail", seen, "put the directory back in its place")
        return
    seen = f"{free // (1024 * 1024)} MiB free"
    if free < _FREE_BYTES_FAIL:
        yield Check("disk space", "fail", seen, "free space: writes will be refused")
    elif free < _FREE_BYTES_WARN:
        yield Check("disk space", "warn", seen, "free space soon")
    else:
        yield Check("disk space", "ok", seen)
    if mode & 0o077:
        seen = f"others may enter the directory of the sessions ({mode:o})"
        yield Check("directory modes", "warn", seen, "run chmod 700 on it, or move them to another")
    else:
        yield Check("directory modes", "ok", f"the directory of the sessions has mode {mode:o}")


def _writing(store: SessionStore) -> Check:
    """Check that every session can be written."""
    refusal = store.refusal
    if refusal is not None:
        action = (
            "free space" if isinstance(refusal, StorageFull) else "look in the log for the reason"
        )
        return Check("writing", "fail", refusal.detail, f"{action}; the gateway retries by itself")
    failed = unwritable(store)
    if not failed:
        return Check("writing", "ok", "every session's log can be written")
    some = [f"{session_id}: {why}" for session_id, why in sorted(failed.items())[:3]]
    seen = f"{len(failed)} sessions whose logs cannot be written; {'; '.join(some)}"
    action = "remove what the reasons name; nothing that was acknowledged is lost"
    return Check("writing", "fail", seen, action)


def unwritable(store: SessionStore) -> dict[str, str]:
    """Return the sessions whose logs cannot be written, and why."""
    return store.unwritable() if isinstance(store, SupportsChecks) else {}


async def _store_checks(store: SessionStore) -> list[Check]:
    """Return what the store checks by itself: each kind depends on other things."""
    if not isinstance(store, SupportsChecks):
        return []
    return [Check(*check) for check in await store.check(_SAMPLE_SESSIONS, _SAMPLE_BYTES)]


async def _reachable(agents: Agents) -> list[Check]:
    """Ask all agents at once whether they can be reached."""
    checks: dict[str, Check] = {}

    async def probe(name: str) -> None:
        label, action = f"agent {name}", "check that it runs, and that its address is right"
        try:
            with anyio.fail_after(_PROBE_SECONDS):
                checks[name] = Check(label, "ok", await agents[name].probe())
        except AgentError as error:
            checks[name] = Check(label, "warn", error.detail, action)
        except TimeoutError:
            seen = f"no answer within {_PROBE_SECONDS} s"
            checks[name] = Check(label, "warn", seen, action)

    async with anyio.create_task_group() as tasks:
        for name in agents:
            tasks.start_soon(probe, name)
    return [checks[name] for name in agents]


async def _limits(context: Context, registry: SessionRegistry, streams: int) -> list[Check]:
    settings = context.settings
    sessions = registry.sessions
    idle = sum(writer.is_idle for writer in sessions)
    stored = (await context.store.usage()).sessions if settings.max_sessions is not None else 0
    uses = (
        ("max_sessions", stored, settings.max_sessions),
        # Idle sessions make room for others.
        ("max_active_sessions", len(sessions) - idle, settings.max_active_sessions),
        ("max_connections", streams, settings.max_connections),
    )
    checks: list[Check] = []
    for name, used, most in uses:
        if most is None:
            continue
        seen = f"{used} of {most}"
        if used >= most:
            action = f"raise {name}, or use less: more is refused"
            checks.append(Check(name, "fail", seen, action))
        elif used >= most * _NEAR:
            checks.append(Check(name, "warn", seen, f"raise {name} soon"))
        else:
            checks.append(Check(name, "ok", seen))
    return checks


def _agents(agents: Sequence[str]) -> Check:
    if "default" not in agents:
        action = "configure one as default, or name an agent in every chat"
        return Check("agents", "warn", f"configured: {', '.join(agents) or 'none'}", action)
    return Check("agents", "ok", f"configured: {', '.join(agents)}")


def bug_report(context: Context, head: SessionHead) -> AsyncGenerator[bytes]:
    """Return a bug report of one session, in pieces, with secrets masked.

    It has the session, whether its log can be written, its statistics, its events (messages are
    events), and what was masked.
    """
    why = unwritable(context.store).get(head.id)
    documents: dict[str, Callable[[], Any]] = {
        "session.json": lambda: view_of(context, head),
        "storage.json": lambda: {"writable": why is None, "problem": why},
        "statistics.json": lambda: session_statistics(head),
    }
    return stream_bug_report(documents, _events(context.store, head), bulk_limiter)


async def _events(store: SessionStore, head: SessionHead) -> AsyncGenerator[list[bytes]]:
    after = 0
    while after < head.seq:
        try:
            page = await store.read(head.id, head.epoch, after, limit=_PAGE, max_bytes=_PAGE_BYTES)
        except Conflict as error:
            raise unknown_session(head.id) from error
        if not page:
            break
        after = page[-1].seq
        yield [record.body for record in page if record.seq <= head.seq]

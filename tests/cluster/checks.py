"""What has to be so when all is quiet again: at each replica, in the database, outside of both."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.cluster.counting_agent import said_by, written_down
from tests.cluster.deployment import Deployment
from tests.crash.traffic import Promises
from tests.processes import CONTROL_TYPES, REPOSITORY, environment
from tests.support import prefork
from tests.support.seen import call, check_what_people_see, sessions_of

TERMINAL_TYPES = {"complete", "error", "cancelled"}
FOLLOWED = {"state", "last_activity_at"}
"""What follows from streams that are open anywhere: a replica learns of others' within a second or
two, and the readers of the test come and go."""
# What a run may end with that was not at fault: its process ended, or the database was away when it
# had to be read.
BROKEN_OFF = {"interrupted", "storage_failed"}
_DOCTOR_SECONDS = 100
Event = dict[str, Any]


def check_log(log: Sequence[Event], promises: Sequence[Promises]) -> None:
    """Check one session's log: numbers, promises, one start and one end of each run."""
    assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
    said = Counter(
        event["message"]["content"]
        for event in log
        if event["type"] == "message" and event["message"]["role"] == "user"
    )
    assert set(said.values()) <= {1}, [text for text, times in said.items() if times > 1]
    custom = [event for event in log if event["type"] == "custom" and event["name"] != "end"]
    values = {event["value"]: event["seq"] for event in custom}
    assert len(values) == len(custom), "a posted event stands twice"
    started = Counter(event["run_id"] for event in log if event["type"] == "run_start")
    ended = Counter(event["run_id"] for event in log if event["type"] in TERMINAL_TYPES)
    assert set(started.values()) <= {1}, f"started twice: {started.most_common(3)}"
    assert set(ended.values()) <= {1}, f"ended twice: {ended.most_common(3)}"
    assert started.keys() <= ended.keys(), f"never ended: {started.keys() - ended.keys()}"
    for promised in promises:
        for value, seq in promised.values.items():
            assert value in values, f"acknowledged and lost: {value}"
            assert seq in {0, values[value]}, f"acknowledged at {seq}, stands at {values[value]}"
        places = [values[value] for value in promised.values]
        assert places == sorted(places), "one client's events stand in another order"
        lost = {*promised.messages, *promised.inputs} - said.keys()
        assert not lost, f"acknowledged and lost: {sorted(lost)[:5]}"
        assert set(promised.runs) <= ended.keys()


def check_words(log: Sequence[Event], counted: Mapping[str, Counter[str]]) -> None:
    """Check that each run was executed once at most, and that its words stand as it said them."""
    starts, ends = counted.get("start", Counter()), counted.get("end", Counter())
    said: dict[str, str] = {}
    words: dict[str, str] = {}
    ended: dict[str, Event] = {}
    for event in log:
        run_id = event.get("run_id", "")
        match event["type"]:
            case "token":
                words[run_id] = words.get(run_id, "") + event["content"]
            case "message" if event["message"]["role"] == "assistant":
                said[run_id] = said.get(run_id, "") + _text(event["message"])
            case "run_start":
                assert starts[run_id] <= 1, f"{run_id} was executed {starts[run_id]} times"
                said.setdefault(run_id, "")
            case "complete" | "error" | "cancelled":
                ended[run_id] = event
            case _:
                pass
    for run_id, text in said.items():
        count = text.count(" ")
        its_log = [event for event in log if event.get("run_id") == run_id]
        assert text == said_by(run_id, count), f"{run_id} said {text!r}: {its_log}"
        assert words.get(run_id, "") == text, (
            f"{run_id}: its tokens are {words.get(run_id, '')!r}, its messages {text!r}: {its_log}"
        )
        if ended[run_id]["type"] == "complete":
            assert starts[run_id] == ends[run_id] == 1, (run_id, starts[run_id], ends[run_id])
        elif ended[run_id]["type"] == "error":
            assert ended[run_id]["code"] in BROKEN_OFF, ended[run_id]


def check_reader(seen: Sequence[Any], log: Sequence[Event]) -> None:
    """Check that a reader has seen the log: every event once, in order, and no `reset`."""
    frames = [one for one in seen if one.event["type"] not in CONTROL_TYPES]
    shown = [one.event for one in frames]
    if shown != list(log):
        at = next(
            (n for n, pair in enumerate(zip(shown, log, strict=False)) if pair[0] != pair[1]),
            min(len(shown), len(log)),
        )
        raise AssertionError(f"a reader saw, at {at}: {shown[at : at + 3]}, not {log[at : at + 3]}")
    assert len({one.id.split("-")[0] for one in frames}) == 1
    assert [int(one.id.split("-")[1]) for one in frames] == [event["seq"] for event in log]


def check_replicas_agree(
    deployment: Deployment, acknowledged: Mapping[str, Sequence[Sequence[str]]]
) -> None:
    """Check that people see the same at every replica, by every way there is to look."""
    lists = []
    for replica in deployment.replicas:
        is_first = replica.number == 0
        check_what_people_see(replica.http, acknowledged, copies=is_first)
        lists.append(sessions_of(replica.http))
    for other in lists[1:]:
        assert other.keys() == lists[0].keys()
        for name, session in other.items():
            differs = {
                member: (lists[0][name].get(member), value)
                for member, value in session.items()
                if member not in FOLLOWED and value != lists[0][name].get(member)
            }
            assert not differs, f"{name} at two replicas: {differs}"


def check_changes(deployment: Deployment, told: Mapping[str, str], names: Sequence[str]) -> None:
    """Check that who followed `/changes` was told of where each session stands now."""
    for name in names:
        session = call(deployment.replicas[0].http, "GET", f"/sessions/{name}")
        assert told.get(name) == session["position"], (name, told.get(name), session["position"])


def check_processes(deployment: Deployment) -> None:
    """Check that no replica ended by itself or failed in a way nobody meant."""
    for replica in deployment.replicas:
        assert not replica.ended_by_itself, (replica.ended_by_itself, replica.log[-4000:])
        for line in replica.log.splitlines():
            assert "a request failed" not in line, line
            assert "Traceback" not in line, replica.log[-8000:]


def check_stored(storage_url: str, data_dir: Path) -> None:
    """Check, while no replica runs, that `bamboo doctor` finds nothing wrong in the database."""
    settings = environment(BAMBOO_STORAGE_URL=storage_url)
    arguments = ["doctor", "--json", "--data-dir", str(data_dir)]
    done = prefork.run(arguments, settings, REPOSITORY, timeout=_DOCTOR_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def check_starts(deployment: Deployment) -> None:
    """Check that no run, of whatever session, was executed twice."""
    counted = written_down(deployment.agent_file)
    for kind in ("paid", "refused", "end"):
        twice = [name for name, times in counted.get(kind, Counter()).items() if times > 1]
        assert not twice, f"{kind} twice: {twice}"
    twice = [name for name, times in counted["start"].items() if times > 1]
    assert not twice, f"executed twice: {twice}"


def _text(message: Event) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")

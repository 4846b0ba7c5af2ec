"""How a gateway starts and ends: whole, once, and only where it may."""

import subprocess
import threading
from pathlib import Path

import pytest

from tests.crash.traffic import Onlooker, Producer
from tests.e2e.watchers import HttpxSse
from tests.processes import BAMBOO, REPOSITORY, Gateway, environment, free_port
from tests.support.seen import check_files, check_what_people_see
from tests.support.waiting import until


def serve(*flags: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `bamboo serve` where it is expected to end by itself."""
    return subprocess.run(
        [*BAMBOO, "serve", *flags],
        cwd=REPOSITORY,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_sigterm_says_goodbye_lets_a_run_end_and_exits_with_0(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        for session_id in ("idle", "busy"):
            gateway.call("POST", "/sessions", json={"id": session_id})
        idle, busy = HttpxSse(), HttpxSse()
        idle.start(f"{gateway.url}/api/v1/stream/idle?from=start")
        busy.start(f"{gateway.url}/api/v1/stream/busy?from=start")
        try:
            run = gateway.call(
                "POST",
                "/chat",
                json={"message": "hi", "session_id": "busy", "options": {"delay_ms": 20}},
            )
            until(lambda: any("token" in one.data for one in list(busy.seen)), "the run is on")
            until(lambda: idle.seen, "the idle stream is open")
            assert gateway.stop() == 0
            until(lambda: goodbyes(idle), "the idle stream was ended")
            until(lambda: goodbyes(busy), "the busy stream was ended")
        finally:
            idle.stop()
            busy.stop()
        # A client that comes back into the drain is told again.
        assert set(goodbyes(idle)) == set(goodbyes(busy)) == {"shutdown"}
        kinds = [one.event["type"] for one in busy.seen]
        assert kinds[kinds.index("goodbye") - 1] == "complete"
        gateway.start()
        path = f"/sessions/busy/runs/{run['run_id']}"
        assert gateway.call("GET", path)["status"] == "completed"


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_a_gateway_that_is_ended_under_load_keeps_everything_and_leaves_its_files_in_order(
    tmp_path: Path, durability: str
) -> None:
    """R1: also where a stop, and not a crash, falls between an answer and a checkpoint."""
    settings = {
        "BAMBOO_DURABILITY": durability,
        "BAMBOO_CHECKPOINT_INTERVAL_SECONDS": "0.1",
        "BAMBOO_DRAIN_TIMEOUT_SECONDS": "1",
    }
    names = ["a", "b"]
    with Gateway(tmp_path, settings) as gateway:
        for name in names:
            gateway.call("POST", "/sessions", json={"id": name})
        producers = [Producer(gateway.url, name, name, number) for number, name in enumerate(names)]
        with Onlooker(gateway.url, names):
            for producer in producers:
                producer.start()
            try:
                until(
                    lambda: all(len(producer.promises.messages) >= 10 for producer in producers),
                    "messages were acknowledged",
                )
                assert gateway.stop() == 0
                check_files(gateway.data_dir)
                gateway.start()
            finally:
                for producer in producers:
                    producer.finish()
        until(lambda: not any(runs_open(gateway, name) for name in names), "all runs have ended")
        told = {
            name: [producer.promises.messages, producer.promises.inputs]
            for name, producer in zip(names, producers, strict=True)
        }
        check_what_people_see(gateway.http, told)
        assert gateway.stop() == 0
        check_files(gateway.data_dir)
        gateway.start()
        check_what_people_see(gateway.http, told, copies=False)


def runs_open(gateway: Gateway, name: str) -> int:
    # In one answer: between two a run that waits becomes one that executes.
    runs = gateway.call("GET", f"/sessions/{name}/statistics")["runs"]
    return int(runs["queued"] + runs["running"])


def goodbyes(watcher: HttpxSse) -> list[str]:
    return [one.event["reason"] for one in watcher.seen if one.event["type"] == "goodbye"]


def test_a_run_that_outlasts_the_drain_ends_as_interrupted_with_what_it_said(
    tmp_path: Path,
) -> None:
    with Gateway(tmp_path, {"BAMBOO_DRAIN_TIMEOUT_SECONDS": "0.1"}) as gateway:
        body = {
            "message": "hi",
            "session_id": "s",
            "options": {"delay_ms": 0, "hold": "middle", "tool": False},
        }
        run = gateway.call("POST", "/chat", json=body)
        until(lambda: any(e["type"] == "token" for e in gateway.events("s")), "it says something")
        assert gateway.stop() == 0
        gateway.start()
        path = f"/sessions/s/runs/{run['run_id']}"
        assert gateway.call("GET", path)["status"] == "interrupted"
        said = gateway.call("GET", "/sessions/s/messages")["messages"][-1]
        assert (said["role"], said["status"]) == ("assistant", "incomplete")


def test_a_gateway_that_drains_refuses_new_runs_and_says_it_is_not_ready(tmp_path: Path) -> None:
    with Gateway(tmp_path, {"BAMBOO_DRAIN_TIMEOUT_SECONDS": "200"}) as gateway:
        body = {"message": "hi", "session_id": "s", "options": {"delay_ms": 0, "hold": "middle"}}
        run = gateway.call("POST", "/chat", json=body)
        until(lambda: any(e["type"] == "token" for e in gateway.events("s")), "it says something")
        gateway.interrupt()
        until(
            lambda: gateway.http.get("/health/ready").status_code == 503, "it says it is not ready"
        )
        refused = gateway.http.post("/chat", json={"message": "hi", "session_id": "t"})
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert "Retry-After" in refused.headers
        gateway.http.post(f"/sessions/s/runs/{run['run_id']}/cancel")
        assert gateway.exit_code() == 0


def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    with Gateway(tmp_path, {"BAMBOO_DRAIN_TIMEOUT_SECONDS": "600"}) as gateway:
        body = {"message": "hi", "session_id": "s", "options": {"delay_ms": 0, "hold": "middle"}}
        gateway.call("POST", "/chat", json=body)
        until(lambda: any(e["type"] == "token" for e in gateway.events("s")), "it says something")
        gateway.interrupt()
        until(lambda: gateway.http.get("/health/ready").status_code == 503, "it drains")
        gateway.interrupt()
        gateway.exit_code()
        gateway.start()
        ended = gateway.call("GET", "/sessions/s/runs")["runs"][0]
        assert ended["status"] == "interrupted"


def test_a_second_gateway_on_the_same_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        where = ["--port", str(free_port()), "--data-dir", str(gateway.data_dir)]
        second = serve(*where)
        assert second.returncode not in {0, None}
        assert str(gateway.process and gateway.process.pid) in second.stderr + second.stdout
        assert len((second.stdout + second.stderr).strip().splitlines()) == 1
        # The first one goes on as if nothing had happened.
        gateway.call("POST", "/sessions", json={"id": "s"})


def test_a_directory_is_free_again_as_soon_as_its_gateway_was_killed(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        gateway.call("POST", "/sessions", json={"id": "s"})
        gateway.kill()
        gateway.start()
        assert gateway.call("GET", "/sessions/s")["id"] == "s"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_others_can_reach_is_refused_without_keys(tmp_path: Path, host: str) -> None:
    ended = serve("--host", host, "--port", str(free_port()), "--data-dir", str(tmp_path))
    assert ended.returncode == 2
    (line,) = (ended.stdout + ended.stderr).strip().splitlines()
    assert "api_keys" in line
    assert "insecure" in line


@pytest.mark.parametrize("how", ["keys", "insecure"])
def test_keys_or_insecure_allow_any_address(tmp_path: Path, how: str) -> None:
    settings = {"BAMBOO_API_KEYS": "k"} if how == "keys" else {}
    flags = ["--insecure"] if how == "insecure" else []
    with Gateway(tmp_path, settings, ["--host", "0.0.0.0", *flags]) as gateway:
        expected = 401 if how == "keys" else 200
        assert gateway.http.get("/sessions").status_code == expected
        headers = {"Authorization": "Bearer k"}
        assert gateway.http.get("/sessions", headers=headers).status_code == 200


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        other = tmp_path / "other"
        ended = serve("--port", str(gateway.port), "--data-dir", str(other))
        assert ended.returncode not in {0, None}
        assert str(gateway.port) in ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr


def test_readers_and_writers_of_many_sessions_start_a_gateway_that_has_just_recovered(
    tmp_path: Path,
) -> None:
    """Recovery is over before the port answers: nobody sees half of it."""
    with Gateway(tmp_path) as gateway:
        names = [f"s-{number}" for number in range(20)]
        for name in names:
            body = {"message": "hi", "session_id": name, "options": {"hold": "end", "delay_ms": 0}}
            gateway.call("POST", "/chat", json=body)
        gateway.kill()
        gateway.start()
        statuses: dict[str, str] = {}

        def look(name: str) -> None:
            statuses[name] = gateway.call("GET", f"/sessions/{name}/runs")["runs"][0]["status"]

        threads = [threading.Thread(target=look, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert statuses == dict.fromkeys(names, "interrupted")


def test_the_garbage_collector_is_at_work_once_it_has_started(tmp_path: Path) -> None:
    """It rests during the start; were it left so, cycles would fill the memory."""
    probe = "import gc\n\nasync def agent(turn):\n    yield f'{gc.isenabled()}'\n"
    (tmp_path / "collector_probe.py").write_text(probe, encoding="utf-8")
    agent = ("--agent", "default=python:collector_probe:agent")
    with Gateway(tmp_path, {"PYTHONPATH": str(tmp_path)}, agent) as gateway:
        chat = {"message": "is it?", "session_id": "s"}
        gateway.call("POST", "/chat", json=chat, headers={"Prefer": "wait=20"})
        said = gateway.call("GET", "/sessions/s/messages")["messages"]
        assert said[-1]["content"] == "True"

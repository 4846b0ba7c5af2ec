"""Two gateway processes on one PostgreSQL, and one user's sessions that both are asked about."""

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bamboo_gateway.wires.openai.ids import conversation_id, response_id
from tests.api.keyed import bearer
from tests.api.serving import SECONDS, check_answer
from tests.cluster import counting_agent
from tests.processes import Gateway
from tests.support.clients import local_client
from tests.support.postgres import GivenServer, PostgresServer

OPERATOR = "the-operators-key"
AGENTS = {
    "default": "demo:?delay_ms=0",
    "held": "demo:?hold=middle&delay_ms=0",
    "asking": "demo:?ask=true&delay_ms=0",
    "counting": counting_agent.ADDRESS,
}
WAITING = {"Prefer": "wait=60"}

_numbers = itertools.count(1)


@dataclass
class Pair:
    """Both processes."""

    gateways: tuple[Gateway, Gateway]
    settings: dict[str, str]
    starts: Path

    @contextmanager
    def clients(self, **headers: str) -> Iterator[tuple[httpx.Client, httpx.Client]]:
        """Yield a client of each, which holds answers against the OpenAPI document."""
        with ExitStack() as stack:
            a, b = (
                stack.enter_context(
                    local_client(
                        base_url=f"{one.url}/api/v1",
                        timeout=SECONDS,
                        headers=headers,
                        event_hooks={"response": [check_answer]},
                    )
                )
                for one in self.gateways
            )
            yield a, b

    @contextmanager
    def case(self) -> Iterator["Case"]:
        """Yield a new user with sessions, which were made at the one replica.

        Which of the two that is alternates.
        """
        number = next(_numbers)
        user = f"user-{number}"
        named = bearer(OPERATOR, **{"X-User-Id": user})
        with self.clients(**named) as both, self.clients(**bearer(OPERATOR)) as operators:
            turn = 1 if number % 2 else -1
            (here, there), (_, operator) = both[::turn], operators[::turn]
            case = Case(self, user, here, there, operator)
            case.prepare()
            yield case


@dataclass
class Case:
    """A user's sessions.

    Attributes:
        here: The replica at which all was made.
        there: The other one.
        operator: The operator, at the other one.
        names: What stands for the names in paths.
    """

    pair: Pair
    user: str
    here: httpx.Client
    there: httpx.Client
    operator: httpx.Client

    def prepare(self) -> None:
        """Make a session that every route has something to say about, and another one."""
        self.session_id, self.other = f"{self.user}-s", f"{self.user}-o"
        pictures = f"{self.user}-p"
        for name in (self.session_id, self.other, pictures):
            self.did("POST", "/sessions", json={"id": name, "title": f"plans of {name}"})
            self.did("POST", f"/sessions/{name}/messages", json=said(f"Hello {name}"))
        url = f"/sessions/{self.session_id}"
        file_id = self.did("POST", "/files", content=b"0123456789" * 1000)["file_id"]
        naming = [{"type": "text", "text": "Look"}, {"type": "file", "file_id": file_id}]
        self.did("POST", f"/sessions/{pictures}/messages", json=said(naming))
        turn = {"session_id": self.session_id, "message": "What is bamboo?"}
        run_id = self.did("POST", "/chat", json=turn, headers=WAITING)["run_id"]
        self.did("PUT", f"{url}/summary", json={"summary": "plans"})
        self.did("PUT", f"{url}/todo", json={"content": "water it"})
        self.did("PUT", f"{url}/extensions/x", json={"config": {}, "enabled": True})
        share = self.did("POST", f"{url}/shares", json={"link": True})
        hook = {"url": "https://hooks.example.com/", "events": ["session.deleted"]}
        webhook_id = self.did("POST", "/webhooks", json=hook)["id"]
        page = self.did("GET", f"{url}/messages")
        self.message_id = page["messages"][0]["id"]
        self.share_token = share["token"]
        self.cursor = self.did("GET", "/changes")["next"]
        self.names = {
            "session_id": self.session_id,
            "threadId": self.session_id,
            "run_id": run_id,
            "connection_id": "c-1",
            "name": "x",
            "share_id": share["id"],
            "branch_id": "main",
            "file_id": file_id,
            "webhook_id": webhook_id,
            "agent": "default",
            "model": "default",
            "user_id": self.user,
            "response_id": response_id(self.session_id, run_id),
            "conversation_id": conversation_id(self.session_id),
            "item_id": self.message_id,
        }

    def did(self, method: str, path: str, **request: Any) -> Any:
        """Ask the replica where all was made, which has to do it."""
        answer = self.here.request(method, path, **request)
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    def hold(self, agent: str = "held", session_id: str | None = None) -> str:
        """Begin a run that says half of its answer and waits; return its id."""
        turn = {"session_id": session_id or self.session_id, "message": "Hold", "agent": agent}
        return str(self.did("POST", "/chat", json=turn)["run_id"])


def said(content: Any, role: str = "user") -> dict[str, Any]:
    """Return the body of a message."""
    return {"role": role, "content": content}


@contextmanager
def pair_of_processes(directory: Path, server: PostgresServer | GivenServer) -> Iterator[Pair]:
    """Run two gateways on a new database."""
    starts = directory / "starts"
    agents = [part for name, url in AGENTS.items() for part in ("--agent", f"{name}={url}")]
    with ExitStack() as stack:
        database = stack.enter_context(server.database())
        settings = {
            "BAMBOO_STORAGE_URL": server.url(database),
            "BAMBOO_API_KEYS": OPERATOR,
            "BAMBOO_LOG_LEVEL": "warning",
            "BAMBOO_TITLES": "off",
            "BAMBOO_DRAIN_TIMEOUT_SECONDS": "0",
            "BAMBOO_EXPORT_DIR": str(directory / "exports"),
            counting_agent.VARIABLE: str(starts),
        }
        gateways = []
        for name in "ab":
            (directory / name).mkdir()
            gateway = Gateway(directory / name, settings, agents)
            gateways.append(stack.enter_context(gateway))
        a, b = gateways
        yield Pair((a, b), settings, starts)

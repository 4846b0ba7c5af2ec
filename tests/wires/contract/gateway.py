"""The gateway of the contract suite, with the agent that says what conversations have in store."""

from pathlib import Path

from tests.processes import Gateway
from tests.support.waiting import until
from tests.wires.contract.agent import DIRECTORY_VARIABLE

_AGENT = ("--agent", "default=python:tests.wires.contract.agent:answer")
_DELTAS = "token,thinking,tool_delta"
_RETENTION = "BAMBOO_DELTA_RETENTION_SECONDS"


class ContractGateway(Gateway):
    """A gateway whose agent plays the conversations.

    Attributes:
        directory: Where the agent keeps what it was asked, and tests release the runs it holds.
    """

    def __init__(self, directory: Path) -> None:
        settings = {
            "BAMBOO_LOG_LEVEL": "warning",
            "BAMBOO_TITLES": "off",
            DIRECTORY_VARIABLE: str(directory),
        }
        super().__init__(directory, settings, _AGENT)
        self.directory = directory

    def compact(self, session_id: str) -> None:
        """Let the deltas of a session's ended runs leave its log, and no others after that."""
        self.stop()
        self._environment[_RETENTION] = "0"
        self.start()
        until(
            lambda: (
                not self.call("GET", f"/sessions/{session_id}/events", params={"type": _DELTAS})[
                    "events"
                ]
            ),
            "the deltas have left the log",
        )
        self.stop()
        del self._environment[_RETENTION]
        self.start()

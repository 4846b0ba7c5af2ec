"""Answers to requests for input, and the open requests with all that a form needs."""

from typing import Annotated, Any, Literal

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Answer, Id, Input, Options
from bamboo_gateway.api.schemas.messages import Message, Usage
from bamboo_gateway.api.schemas.runs import RunError
from bamboo_gateway.domain.events import RequestKind
from bamboo_gateway.domain.message_assembler import REQUESTS_MAX
from bamboo_gateway.sessions.runs.inputs import Inputs


class InputsInput(Input):
    """Answers, by the id of their request. Of an approval: `{"approved": true}`."""

    answers: Annotated[dict[Id, Any], Field(min_length=1, max_length=REQUESTS_MAX)]
    run_id: Id | None = Field(
        None, description="The client's own name for the run that starts with the last answer."
    )
    options: Options | None = Field(
        None,
        description="Options for the agent of that run. Absent: those of the run that asked.",
    )

    def to_command(self) -> Inputs:
        """Return the answers as the command takes them."""
        return Inputs(dict(self.answers), self.run_id, self.options)


class InputsAccepted(Answer):
    """The answers are stored. With `run_id` the run that gets them has started."""

    session_id: str
    run_id: str | None
    position: str
    stream_url: str


class InputsCompleted(Answer):
    """The run that got the answers has ended: how, and its last assistant message."""

    session_id: str
    run_id: str
    position: str
    stream_url: str
    status: Literal["completed", "failed", "cancelled", "interrupted"]
    usage: Usage | None
    error: RunError | None
    message: Message | None


class OpenInput(Answer):
    """A request for input that waits for an answer, with all that a form needs."""

    request_id: str
    kind: RequestKind
    prompt: str
    run_id: str
    tool_call_id: str | None
    schema_: Annotated[
        dict[str, Any] | None,
        Field(alias="schema", description="The JSON Schema of the answer, if it has one."),
    ]
    asked_at: str
    expires_at: str | None


class OpenInputs(Answer):
    """The open requests of a session, in the order in which they were asked."""

    inputs: list[OpenInput]

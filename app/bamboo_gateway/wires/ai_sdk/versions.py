"""Which parts of the protocol each version of the client knows.

A part that a client does not know ends its stream with an error, and so does an unknown member of a
part in some releases. So each version gets only what all of its releases take.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Version:
    """What the releases of one major version take.

    Attributes:
        number: The major version.
        path: The path of its routes, below `/api/v1`.
        has_reasons: `finish` has `finishReason`, and `abort` has `reason`.
        has_approvals: There are `tool-approval-request` and `tool-output-denied`.
        has_responses: There are `tool-approval-response` and `reset-step`.
    """

    number: int
    path: str
    has_reasons: bool = False
    has_approvals: bool = False
    has_responses: bool = False


V5: Final = Version(5, "/ai-sdk/chat")
V6: Final = Version(6, "/ai-sdk/v6/chat", has_reasons=True, has_approvals=True)
V7: Final = Version(7, "/ai-sdk/v7/chat", has_reasons=True, has_approvals=True, has_responses=True)
VERSIONS: Final = (V5, V6, V7)

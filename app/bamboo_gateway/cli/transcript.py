"""Print the events of a run for people: the answer plain, thinking and tools in other colours."""

from typing import Any

from bamboo_gateway.cli.output import harmless, notice, one_line, print_line, write
from bamboo_gateway.domain import codec
from bamboo_gateway.domain.events import REASON_INPUT

THINKING_STYLE = "dim italic"
TOOL_STYLE = "cyan"
ERROR_STYLE = "red"
# A tool's result is for the agent; people see enough of it to recognise it.
TOOL_TEXT_CHARS = 160


class Transcript:
    """Prints a conversation to stdout as it grows, and notices on lines of their own to stderr.

    Attributes:
        waits: Whether the run has ended and waits for answers.
    """

    def __init__(self) -> None:
        self.waits = False
        self._kind = ""
        self._at_line_start = True
        self._shown_messages: set[str] = set()

    def show(self, event: dict[str, Any]) -> None:
        """Print one event of a run; skip those that mean nothing to people."""
        match event["type"]:
            case "token":
                self._shown_messages.add(event.get("message_id", ""))
                self._flow("token", event["content"], "")
            case "thinking":
                self._flow("thinking", event["content"], THINKING_STYLE)
            case "tool_start":
                arguments = event["arguments"]
                text = arguments if isinstance(arguments, str) else _json(arguments)
                self._line(f"→ {event['tool_name']} {text}", TOOL_STYLE)
            case "tool_complete":
                result = event["result"]
                mark = "←" if result["success"] else "← failed:"
                self._line(f"{mark} {_text(result['content'])}", TOOL_STYLE)
            case "tool_error":
                self._line(f"← failed: {event['error']}", ERROR_STYLE)
            case "message":
                self._message(event["message"])
            case "custom":
                self._line(f"{event['name']}: {_text(event['value'])}", TOOL_STYLE)
            case "run_queued":
                self.interrupt("waiting for the runs before it")
            case "error":
                self._line(f"The run failed: {event['message']} ({event['code']})", ERROR_STYLE)
            case "cancelled":
                self._line(f"The run was cancelled: {event['reason']}", ERROR_STYLE)
            case "complete":
                self.waits = event["finish_reason"] == REASON_INPUT
                self.end_line()
            case _:
                pass

    def interrupt(self, text: str) -> None:
        """Print a notice that is not part of the conversation."""
        self.end_line()
        notice(text)

    def end_line(self) -> None:
        """Begin a new line, unless the cursor is at the start of one."""
        if not self._at_line_start:
            write("\n")
        self._at_line_start = True
        self._kind = ""

    def _message(self, message: dict[str, Any]) -> None:
        # The tokens of a message have shown it already. An agent may also yield it whole.
        if message["role"] == "assistant" and message["id"] not in self._shown_messages:
            self._flow("token", text_of(message["content"]), "")

    def _flow(self, kind: str, text: str, style: str) -> None:
        if kind != self._kind:
            self.end_line()
            self._kind = kind
        if text:
            write(text, style)
            self._at_line_start = harmless(text).endswith("\n")

    def _line(self, text: str, style: str) -> None:
        self.end_line()
        print_line(one_line(text, TOOL_TEXT_CHARS), style)


def text_of(content: str | list[dict[str, Any]]) -> str:
    """Return the text of a message's content: the string, or its text parts joined."""
    if isinstance(content, str):
        return content
    return "".join(str(part["text"]) for part in content if part.get("type") == "text")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return codec.encode(value).decode()

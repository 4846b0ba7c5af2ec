"""The project's Python client as the commands use it: one attempt, and one line for each error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from bamboo_gateway.cli.output import CommandError, ExitCode
from bamboo_gateway.domain import codec
from bamboo_gateway_client import (
    Gateway,
    ProblemError,
    ProtocolError,
    Retries,
)
from bamboo_gateway_client import (
    UnreachableError as NoAnswerError,
)
from bamboo_gateway_client.addresses import API as API


class UnreachableError(CommandError):
    """No gateway answers at the URL."""

    def __init__(self, error: NoAnswerError) -> None:
        super().__init__(
            f"No gateway answers at {error.url} ({error.reason}). "
            "Start one with `bamboo serve`, or name another with --url.",
            ExitCode.UNREACHABLE,
        )


class RefusedError(CommandError):
    """The gateway answered with a problem document (RFC 9457).

    Attributes:
        status: The HTTP status.
        code: The stable code of the problem; empty when the answer is no problem document.
        retry_after_seconds: `Retry-After`, None where the answer has none.
        passes: Whether waiting helps: the gateway, or a proxy in front of it, is busy or restarts.
    """

    def __init__(self, problem: ProblemError) -> None:
        self.status = problem.status
        self.code = problem.code
        self.retry_after_seconds = problem.retry_after_seconds
        self.passes = problem.is_passing
        super().__init__(str(problem))

    @property
    def is_not_found(self) -> bool:
        """Whether the status is 404."""
        return self.status == 404


class GatewayClient:
    """Calls one gateway.

    Attributes:
        gateway: The client of the library, for streams.
        url: The gateway's URL, without a slash at the end.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        try:
            # A command says what went wrong. Those that send again say that they do.
            self.gateway = Gateway(url, api_key, retries=Retries(attempts=1))
        except ValueError as error:
            # It begins with the address, or says that it is the key.
            option = "--url " if url in str(error) else ""
            raise CommandError(f"{option}{error}", ExitCode.USAGE) from error
        self.url = self.gateway.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.close()

    @property
    def reached(self) -> bool:
        """Whether the gateway has answered before.

        A refused connection then means that it restarts, and a command waits for it.
        """
        return self.gateway.reached

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
    ) -> Any:
        """Call `path` below `/api/v1` and return the JSON answer, None where the body is empty.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer.
        """
        body, sent = _encoded(json, content, headers)
        with command_errors():
            return self.gateway.request(method, path, params=params, headers=sent, content=body)

    def upload(
        self,
        path: str,
        pieces: Iterator[bytes],
        *,
        params: Mapping[str, Any],
        headers: Mapping[str, str],
    ) -> dict[str, Any]:
        """Post a body in pieces, and return the JSON answer.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer.
        """
        answer: dict[str, Any] = self.call(
            "POST", path, params=params, headers=headers, content=pieces
        )
        return answer

    @contextmanager
    def download(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[Iterator[bytes]]:
        """Open a document below `/api/v1` and yield its chunks.

        Raises:
            RefusedError: The gateway answered with an error.
            UnreachableError: The gateway did not answer, or the document broke off.
        """
        body, sent = _encoded(json, content, headers)
        with (
            command_errors(),
            self.gateway.open(method, path, params=params, headers=sent, content=body) as response,
        ):
            yield response.iter_bytes()


@contextmanager
def command_errors() -> Iterator[None]:
    """Turn what the client raises within the block into what ends a command.

    Raises:
        RefusedError: The gateway answered with an error.
        UnreachableError: The gateway did not answer.
        CommandError: What answered is no gateway.
    """
    try:
        yield
    except NoAnswerError as error:
        raise UnreachableError(error) from error
    except ProblemError as error:
        raise RefusedError(error) from error
    except ProtocolError as error:
        raise CommandError(str(error)) from error


def _encoded(
    json: Mapping[str, Any] | None,
    content: bytes | Iterator[bytes] | None,
    headers: Mapping[str, str] | None,
) -> tuple[bytes | Iterator[bytes] | None, dict[str, str]]:
    sent = dict(headers or {})
    if json is not None:
        content = codec.encode(json)
        sent["Content-Type"] = "application/json"
    return content, sent

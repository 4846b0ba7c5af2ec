"""Errors as clients get them."""

from pydantic import ConfigDict

from bamboo_gateway.api.schemas.fields import Described


class ProblemPlace(Described):
    """One thing that is wrong with a request, and where."""

    loc: list[str | int]
    msg: str


class Problem(Described):
    """A problem document (RFC 9457). `code` is stable; further members depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    errors: list[ProblemPlace] = []

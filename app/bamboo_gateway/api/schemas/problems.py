"""Errors as clients get them."""

from pydantic import BaseModel, ConfigDict


class ProblemPlace(BaseModel):
    """One thing that is wrong with a request, and where."""

    loc: list[str | int]
    msg: str


class Problem(BaseModel):
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

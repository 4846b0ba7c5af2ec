"""What `bamboo migrate schema` answers, for every SQL database."""

from typing import Final, NamedTuple

UNRELEASED: Final = (
    "has the tables of a development version from before the first release, when they were still "
    "changing. Let that version copy the sessions (`bamboo migrate data FROM jsonl:/directory`); "
    "this one opens that directory."
)
"""Ends a refusal, behind what has these tables."""


class SchemaChange(NamedTuple):
    """What was done, or would be done.

    Attributes:
        before: The version of the schema before; None when there were no tables.
        after: The version after; None when there are no tables.
        script: The SQL, when nothing was to be changed.
    """

    before: str | None
    after: str | None
    script: str = ""

"""What `bamboo migrate schema` answers, for every SQL database."""

from typing import NamedTuple


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

"""The one shape of the exports that lose nothing, in JSON and in YAML.

    {"bamboo_export": 1,
     "session":  {…},          the contract's Session, without what holds only at the moment
     "summary":  {…} | null,   SummaryCacheData, and how many messages it covers
     "lineage":  {…} | null,   ancestors and merges, as the gateway that wrote it knew them
     "messages": [{…}, …],     the contract's Messages, in order
     "message_count": 2}       last: says that the document is whole

A document without metadata has neither `summary` nor `lineage`, and of the session and of each
message only what `base` lists.

The number is the version of the shape; a reader refuses one it does not know. `message_count` may
be left out of JSON, whose syntax says where it ends; cut YAML is often still YAML.
"""

from typing import Any, Final

from bamboo_gateway.exporters.base import DocumentHead

MARK: Final = "bamboo_export"
VERSION: Final = 1


def head_members(head: DocumentHead) -> dict[str, Any]:
    """Return the members before `messages`, in order."""
    members: dict[str, Any] = {MARK: VERSION, "session": head.session}
    if head.include_metadata:
        members |= {"summary": head.summary, "lineage": head.lineage}
    return members

"""The shape of the exports without loss, in JSON and in YAML.

    {"bamboo_export": 1,
     "session":  {…},          the Session of the API, without members that are true only now
     "summary":  {…} | null,   SummaryCacheData, and how many messages it covers
     "lineage":  {…} | null,   ancestors and merges, as the exporting gateway knew them
     "messages": [{…}, …],     the Messages of the API, in order
     "message_count": 2}       last, to show that the document is whole

A document without metadata has neither `summary` nor `lineage`. Of the session and of each message
it has only the members that `base` lists.

The number is the version of the shape; a reader refuses an unknown one. `message_count` may be left
out of JSON, whose syntax shows where it ends. YAML that was cut is often still valid YAML.
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

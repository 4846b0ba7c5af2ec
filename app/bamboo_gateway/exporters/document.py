"""The shape of the exports without loss, in JSON and in YAML.

    {"bamboo_export": 1,
     "session":  {…},          the Session of the API, without members that are true only now
     "summary":  {…} | null,   SummaryCacheData, and how many messages it covers
     "lineage":  {…} | null,   ancestors and merges, as the exporting gateway knew them
     "branches": {…},          only of a session with several branches
     "messages": [{…}, …],     the Messages of the API, in order
     "message_count": 2}       last, to show that the document is whole

With `branches` the messages are those of all branches, in the order of the log, and each has its
`branch_id`. `branches` is `{"current", "branches", "summaries"}`: the id of the current branch,
each branch as the API lists it (`branch_id`, `parent_branch_id`, `from_message_id`, `created_at`),
and the summaries that count on any path. Readers of earlier versions refuse such a document.

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
    if head.branches is not None:
        members["branches"] = head.branches
    return members

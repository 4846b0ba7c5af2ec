"""The shelf of files: their records, who names them, and the bytes that they take.

A file is a *record* (a value of the session store: name, owner, digest …) and a *content* (bytes,
once for each owner and digest). A *reference* says that a session names a file. It is durable
before the message that names the file is, so no message ever names a file that may go. One that is
left without its message does no harm: the session's head has the ids that its messages name, and
the sweep removes a reference that the head does not bear out.
"""

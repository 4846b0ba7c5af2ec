"""The index: the catalog of all sessions, and the lists of them."""

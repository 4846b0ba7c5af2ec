"""The journal: commits are synced here before they are acknowledged, and replayed at a start."""

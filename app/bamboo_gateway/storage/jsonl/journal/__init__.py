"""The journal: what is synced before anything is acknowledged, and how it is replayed."""

"""Authentication, permissions, tickets, share links, origins and rate limits."""

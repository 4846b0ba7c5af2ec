"""Authentication, rights, tickets, share links, origins and rate limits."""

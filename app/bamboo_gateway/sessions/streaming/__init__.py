"""Streaming: the session's single writer, its event queue, and the subscriptions that read it."""

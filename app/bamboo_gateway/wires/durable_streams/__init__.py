"""Durable Streams, read only: a session's log as a stream of JSON messages.

The protocol: https://github.com/durable-streams/durable-streams (PROTOCOL.md).
"""

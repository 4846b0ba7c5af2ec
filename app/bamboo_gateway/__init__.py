"""Bamboo Gateway: durable, resumable conversations between agents and web front ends."""

__version__ = "0.1.0"

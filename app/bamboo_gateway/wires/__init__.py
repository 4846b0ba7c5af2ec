"""Wires: the log of a session in other protocols.

A wire translates requests of its protocol into the gateway's commands, and the log into the
protocol's answers. It keeps nothing: what it needs is in the request or in the log.
"""

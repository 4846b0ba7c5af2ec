"""Notices between the gateway processes that share a store: what was committed, soon after it was.

The store is the truth. A bus only says sooner what every process would find in the store by itself,
so losing it costs time and no event.
"""

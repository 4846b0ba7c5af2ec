"""What databases share: the tables of sessions, and the statements that list and search them.

The SQL stores keep sessions in these tables. The JSONL store keeps an index of its sessions in
them, which it can make again from its logs. Nothing here knows events.
"""

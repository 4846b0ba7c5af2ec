"""Benchmarks: what the gateway does beside small honest peers. `python -m benchmarks --help`."""

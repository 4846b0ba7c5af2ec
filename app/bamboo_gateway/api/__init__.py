"""HTTP and nothing else: requests become commands, answers bytes, errors problems."""

"""The contents of files, beside the sessions: the contract, and one module for each place."""

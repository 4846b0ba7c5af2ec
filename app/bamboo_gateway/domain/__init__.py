"""Pure types and rules: no I/O, no clock of its own, no framework."""

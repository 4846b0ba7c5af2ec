"""Pure words and rules: no I/O, no clock of its own, no framework."""

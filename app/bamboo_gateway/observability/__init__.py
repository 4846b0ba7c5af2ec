"""What people and machines see of the inside: the log and the metrics."""

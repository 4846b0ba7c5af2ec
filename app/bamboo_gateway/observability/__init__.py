"""What operators see of the gateway: log, metrics, audit log and traces."""

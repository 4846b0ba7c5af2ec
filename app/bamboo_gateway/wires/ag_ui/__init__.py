"""AG-UI 1.0 over SSE: sessions as threads, runs as the protocol's event streams."""

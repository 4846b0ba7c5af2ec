"""The uvicorn server: its start and drain, its HTTP/1.1 protocol, its limits of TCP connections."""

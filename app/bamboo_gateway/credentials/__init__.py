"""Credentials: who may come in, as whom, and until when. Knows nothing of HTTP."""

"""Credentials: which callers are let in, with which permissions, until when. No HTTP here."""

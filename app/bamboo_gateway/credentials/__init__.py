"""Credentials: which callers are let in, with which rights, until when. No HTTP here."""

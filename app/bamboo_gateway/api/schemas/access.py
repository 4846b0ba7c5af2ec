"""Credentials for web pages."""

from typing import Annotated

from pydantic import Field

from bamboo_gateway.api.schemas.fields import Described


class Ticket(Described):
    """A ticket to one session."""

    ticket: Annotated[str, Field(description="Opens the session's reading routes as `?ticket=`.")]
    expires_at: Annotated[str, Field(description="When the ticket ends.")]
    stream_url: Annotated[str, Field(description="The session's stream, with the ticket.")]

"""Files that messages name."""

from bamboo_gateway.api.schemas.fields import Answer


class File(Answer):
    """A file. Messages name it by its `file_id`; `url` has its content."""

    file_id: str
    name: str
    media_type: str
    bytes: int
    sha256: str
    created_at: str
    url: str


class FileList(Answer):
    """A page of files, the oldest first."""

    files: list[File]
    next_cursor: str | None
    has_more: bool

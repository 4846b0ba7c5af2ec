"""A file that messages name."""

from typing import Any, Final

FILE_ID: Final = "file_01kag8v3c0d6q0w1x2y3z4a5b6"
FILE: Final[dict[str, Any]] = {
    "file_id": FILE_ID,
    "name": "holiday.jpg",
    "media_type": "image/jpeg",
    "bytes": 2_481_003,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "created_at": "2026-11-20T17:25:00.123Z",
    "url": f"/api/v1/files/{FILE_ID}",
}

"""Storage URLs: what they name, and that nobody sees their passwords."""

import re
from pathlib import Path

import pytest

from bamboo_gateway.domain.storage_url import StorageUrl

HOME = Path.home()


@pytest.mark.parametrize(
    ("text", "scheme", "path"),
    [
        ("jsonl:", "jsonl", None),
        ("JSONL:", "jsonl", None),
        ("memory:", "memory", None),
        ("sqlite:", "sqlite", None),
        ("jsonl:/data/x", "jsonl", Path("/data/x")),
        ("jsonl:///data/x", "jsonl", Path("/data/x")),
        ("jsonl:~/data", "jsonl", HOME / "data"),
        ("sqlite:///data/x.db", "sqlite", Path("/data/x.db")),
        ("sqlite:////data/x.db", "sqlite", Path("/data/x.db")),
        ("sqlite:/data/50%20?a#b.db", "sqlite", Path("/data/50%20?a#b.db")),
        ("postgresql://db/x", "postgresql", None),
        ("postgresql:///x?host=/run/postgresql", "postgresql", None),
        ("postgresql://me:word@a:5432,[::1]:5433,c/x", "postgresql", None),
    ],
)
def test_a_storage_url_names_a_store_and_its_place(
    text: str, scheme: str, path: Path | None
) -> None:
    url = StorageUrl.parse(text)
    assert (url.scheme, url.path, url.secret) == (scheme, path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a storage URL"),
        ("/data/x", "not a storage URL"),
        ("jsonl", "not a storage URL"),
        ("mysql://me:hunter2@db/x", "`mysql:` is not supported"),
        ("punched-cards:", "`punched-cards:` is not supported"),
        ("me:hunter2@db/x", "`me:` is not supported"),
        ("postgres://me:hunter2@db/x", "write `postgresql://"),
        ("postgresql:me:hunter2@db/x", "write `postgresql://"),
        ("postgresql://me:hunter2@[db/x", "write `postgresql://"),
        ("postgresql://me@db:hunter2/x", "write `postgresql://"),
        ("postgresql://me@db:5432,db:hunter2/x", "write `postgresql://"),
        ("memory:hunter2", "takes nothing"),
        ("jsonl:data", "absolute path"),
        ("jsonl://host/data", "absolute path"),
        ("sqlite:x.db", "absolute path"),
        ("sqlite://hunter2", "absolute path"),
        ("jsonl:~nobody-of-this-name/x", "no home directory"),
        ("jsonl:/a\nb", "control character"),
        ("sqlite:/a\0b", "control character"),
    ],
)
def test_a_wrong_storage_url_is_refused_in_a_line_without_a_password(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        StorageUrl.parse(text)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://me:hun@ter2@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me@db/x", "postgresql://me@db/x"),
        ("postgresql://db/x?password=hunter2", "postgresql://db/x?…"),
        ("postgresql://db/x#hunter2", "postgresql://db/x?…"),
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
    ],
)
def test_a_storage_url_is_shown_without_its_password(text: str, shown: str) -> None:
    url = StorageUrl.parse(text)
    assert f"{url}" == f"{url!r}" == shown

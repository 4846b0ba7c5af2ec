"""Copies the values beside the sessions, and compares both sides."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import sha256
from typing import Final, NamedTuple

from bamboo_gateway.storage.base import SessionStore
from bamboo_gateway.storage.reports import ValueChange

_PAGE_VALUES: Final = 500


class ValuesDigest(NamedTuple):
    """How many values a store has, and what they are: equal in two stores only if all are."""

    values: int
    sha256: str


async def copy_values(source: SessionStore, target: SessionStore) -> None:
    """Write all values into the target, and remove those that the source does not have."""
    for kind in await target.value_kinds():
        async with aclosing(_pages(target, kind)) as pages:
            async for page in pages:
                strays = [key for key, _ in page if await source.value(kind, key) is None]
                await target.write_values([ValueChange(kind, key, None) for key in strays])
    for kind in await source.value_kinds():
        async with aclosing(_pages(source, kind)) as pages:
            async for page in pages:
                await target.write_values([ValueChange(kind, key, value) for key, value in page])


async def values_digest(store: SessionStore) -> ValuesDigest:
    """Read all values."""
    digest, count = sha256(), 0
    for kind in await store.value_kinds():
        async with aclosing(_pages(store, kind)) as pages:
            async for page in pages:
                for key, value in page:
                    digest.update(b"%d %d %d:" % (len(kind), len(key), len(value)))
                    digest.update(f"{kind}{key}".encode() + value)
                    count += 1
    return ValuesDigest(count, digest.hexdigest())


async def _pages(store: SessionStore, kind: str) -> AsyncGenerator[list[tuple[str, bytes]]]:
    # The empty key is behind no other one.
    first = await store.value(kind, "")
    if first is not None:
        yield [("", first)]
    after = ""
    while page := await store.values(kind, after=after, limit=_PAGE_VALUES):
        yield page
        after = page[-1][0]

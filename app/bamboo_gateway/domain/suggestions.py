"""The hint that an error gives about a name that is not known: the nearest name that is."""

from collections.abc import Collection
from difflib import get_close_matches


def nearest_name(name: str, known: Collection[str], *, ratio: float = 0.6) -> str | None:
    """Return the name in `known` that a person most likely meant, None when none is near.

    Args:
        name: What was written. Capitals are ignored: `PORT` is near to `port`.
        known: The names there are.
        ratio: How much of both names must be the same, from 0 to 1; the default is `difflib`'s.
    """
    by_folded = {one.casefold(): one for one in sorted(known)}
    matches = get_close_matches(name.casefold(), by_folded, n=1, cutoff=ratio)
    return by_folded[matches[0]] if matches else None

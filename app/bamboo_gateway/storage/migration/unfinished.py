"""What a store says while `bamboo migrate data` has not finished copying into it."""

from bamboo_gateway.storage.base import StoreUnusable


def unfinished(where: str, origin: str) -> StoreUnusable:
    """Return the refusal to open a store that a migration has not finished."""
    return StoreUnusable(
        f"{where} is the target of a migration from {origin} that has not ended. Run the same "
        "`bamboo migrate data` again, and it goes on; or remove what is there."
    )


def check_target(where: str, origin: str, known: str | None, sessions: int) -> None:
    """Refuse to copy into a store that has other sessions.

    Args:
        where: What the store is, at the beginning of a sentence.
        origin: What is to be copied.
        known: What an unfinished migration into the store copies; None when there is none.
        sessions: How many sessions the store has.

    Raises:
        StoreUnusable: There are sessions without a migration, or from another origin.
    """
    if known is not None and known != origin:
        raise StoreUnusable(
            f"{where} is the target of another migration, from {known}: end that one, or choose an "
            "empty target."
        )
    if known is None and sessions:
        raise StoreUnusable(
            f"{where} is not empty: it has {sessions} sessions. Choose an empty target."
        )

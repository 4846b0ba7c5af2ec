"""The codec of JSON."""

import pytest

from bamboo_gateway.domain.codec import decode, encode
from bamboo_gateway.server.memory import resident_bytes

COUNT = 20_000


@pytest.mark.parametrize("size", [0, 1, 8_180, 8_190, 8_200, 100_000])
def test_encoded_values_are_read_back(size: int) -> None:
    value = {"text": "é" * size}
    assert decode(encode(value)) == value


def test_an_encoded_event_holds_no_more_memory_than_its_size() -> None:
    """The event queues of all sessions keep such bodies, and are bounded by their sizes."""
    before = resident_bytes()
    kept = [encode({"type": "token", "seq": seq, "content": "the quick"}) for seq in range(COUNT)]
    held = (resident_bytes() - before) / COUNT
    assert held < 4 * (len(kept[-1]) + 33)

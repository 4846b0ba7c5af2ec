"""What tests of exporters share: one backend, and the samples."""

from pathlib import Path

import pytest

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def sample():
    """Return the bytes of a file in `samples/`."""
    return lambda name: (SAMPLES / name).read_bytes()

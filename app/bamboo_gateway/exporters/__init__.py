"""Sessions as documents: written for people or without loss, and read back from many formats."""

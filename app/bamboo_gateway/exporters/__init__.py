"""Sessions as documents: written for people or without loss, and read from many formats."""

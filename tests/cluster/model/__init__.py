"""A model of the replica protocol."""

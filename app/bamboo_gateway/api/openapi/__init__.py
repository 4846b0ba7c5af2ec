"""The OpenAPI document: how it is put together, its descriptions and its examples."""

"""The examples of the OpenAPI document, all taken from one conversation."""

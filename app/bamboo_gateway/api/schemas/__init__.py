"""What clients send and what they get, as the OpenAPI document describes it."""

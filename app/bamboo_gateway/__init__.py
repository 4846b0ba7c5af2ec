"""Bamboo Gateway: durable sessions and resumable event streams for AI agents."""

from importlib.metadata import PackageNotFoundError, version

# `versioning.py` and `make release-check` read this line; the release's tag is `v` and the same.
RELEASE = "0.1.0"
"""The release that this code becomes, and whose interface the OpenAPI document describes."""

try:
    __version__ = version("bamboo-gateway")
except PackageNotFoundError:  # a folder on the path, which nobody has installed
    __version__ = f"{RELEASE}.dev0"

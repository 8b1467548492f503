"""The hub and the cache of these tests."""

from tests.hub.fixtures import cache, hub

__all__ = ["cache", "hub"]

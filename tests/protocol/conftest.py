"""The server of the tests that only send requests, and its client."""

from tests.serve.conftest import client, server

__all__ = ["client", "server"]

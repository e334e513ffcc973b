"""The server that these tests call."""

from tests.server.serving import open_server, served, tiny_store

__all__ = ["open_server", "served", "tiny_store"]

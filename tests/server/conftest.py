"""The fixtures of a server without workers."""

from tests.server.serving import open_server, served, tiny_store

__all__ = ["open_server", "served", "tiny_store"]

"""The client of an embedd or Ollama server, for programs and for the command."""

from embedd.client.client import NO_SERVER, Client, Identity

__all__ = ["NO_SERVER", "Client", "Identity"]

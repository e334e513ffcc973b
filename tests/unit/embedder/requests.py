"""Requests to the model ``tiny`` of the fixture `embedder`."""

from embedd.types import ClientIds, EmbedRequest

CONTEXT = 64


def ask(*inputs: str | ClientIds, **changes: object) -> EmbedRequest:
    request = {"model": "tiny", "inputs": inputs, **changes}
    return EmbedRequest(**request)  # type: ignore[arg-type]  # a dict of keyword arguments

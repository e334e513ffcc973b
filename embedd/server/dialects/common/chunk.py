"""``chunk`` of a request and ``chunks`` of its answer: where texts are cut."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from embedd.errors import InvalidInputError
from embedd.server.http.json_out import Rows
from embedd.types import Chunking, ChunkPlace

FIELD: Final = "chunk"
KEYS: Final = ("tokens", "overlap", "pool")
CHUNKS_AT_A_TIME: Final = 1000  # rendered in less than a millisecond
LONGEST_VALUE: Final = 80  # characters of a wrong value in a message


def parse_chunk(chunk: Mapping[str, Any] | None, *, max_chunks: int) -> Chunking | None:
    """Return how texts are to be cut; None: not at all. The numbers are checked by the embedder.

    Raises:
        InvalidInputError: A key is unknown, or a value is not of its type.
    """
    if chunk is None:
        return None
    for key in chunk:
        if key not in KEYS:
            raise InvalidInputError(
                f"chunk.{key[:LONGEST_VALUE]} is not known: chunk has {', '.join(KEYS)}",
                field=FIELD,
            )
    pool = chunk.get("pool")
    if pool not in (None, "mean"):
        raise InvalidInputError(
            f'chunk.pool is {_quote(pool)}, it must be "mean": leave it out for a vector of each '
            "chunk",
            field=FIELD,
        )
    return Chunking(
        tokens=_parse_count(chunk, "tokens"),
        overlap=_parse_count(chunk, "overlap") or 0,
        pool=pool is not None,
        max_chunks=max_chunks,
    )


def refuse_chunk(chunk: object) -> None:
    """Refuse ``chunk`` on a route whose answers have no place for chunks.

    Raises:
        InvalidInputError: It is given; without it, texts would lose their ends in silence.
    """
    if chunk is not None:
        raise InvalidInputError(
            "chunk is not supported on this route: use /api/embed or /v1/embeddings", field=FIELD
        )


def chunk_rows(chunks: Sequence[ChunkPlace]) -> Rows:
    """Return the places as rows of JSON objects."""
    return Rows(
        len(chunks),
        lambda start, stop: msgspec.json.encode(chunks[start:stop])[1:-1],
        CHUNKS_AT_A_TIME,
    )


def _parse_count(chunk: Mapping[str, Any], key: str) -> int | None:
    value = chunk.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InvalidInputError(
        f"chunk.{key} is {_quote(value)}, it must be a whole number of tokens", field=FIELD
    )


def _quote(value: object) -> str:
    """The start of *value* as JSON."""
    return msgspec.json.encode(value).decode()[:LONGEST_VALUE]

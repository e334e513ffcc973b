"""Vectors as JSON in the requested formats: lists of numbers, or base64 of the bytes."""

from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from embedd.server.http.json_out import Parts, Rows, choose_step, dump, dump_rows, vector_rows
from embedd.types import DType, EmbedResult, Encoding, Quantized, VectorFormat, Vectors
from embedd.vectors import SharedRows, Sliceable

# What `items` writes, for the OpenAPI document: the numbers are written without structs.
_EMBEDDING: Final = {
    "anyOf": [
        {"type": "array", "items": {"type": "number"}},
        {"type": "string"},  # base64
        {"type": "object"},  # several formats by their names
    ]
}
_ITEM: Final = {
    "type": "object",
    "properties": {
        "object": {"type": "string"},
        "embedding": _EMBEDDING,
        "index": {"type": "integer"},
    },
    "required": ["object", "embedding", "index"],
}
Items = Annotated[list[Any], msgspec.Meta(extra_json_schema={"items": _ITEM})]


def insert_rows(reply: msgspec.Struct, rows: Mapping[str, Rows | bytes]) -> Parts:
    """*reply* as JSON, with *rows* inside its empty lists of these names, in their order.

    So an answer is described by one struct, and its vectors are never Python objects.
    """
    parts: list[Rows | bytes] = []
    rest = dump(reply)
    for name, row in rows.items():
        # Quotes within strings are escaped: only a key looks like this.
        before, opening, rest = rest.partition(b'"%b":[' % name.encode())
        parts += [before + opening, row]
    return [*parts, rest]


def choose_numbers(result: EmbedResult, dtype: DType = DType.FLOAT) -> Sliceable:
    """The vectors as *dtype*, a row for each input."""
    numbers = result.vectors if dtype is DType.FLOAT else result.quantized[dtype]
    return numbers if result.rows is None else SharedRows(numbers, result.rows)


def column(result: EmbedResult, format_: VectorFormat) -> Rows:
    """All vectors in one format."""
    numbers = choose_numbers(result, format_.dtype)
    return Rows(
        len(numbers),
        lambda start, stop: b",".join(to_texts(numbers[start:stop], format_.encoding)),
        choose_step(result.vectors.shape[1]),
    )


def float_rows(result: EmbedResult) -> Rows:
    """All vectors as lists of numbers."""
    return vector_rows(choose_numbers(result), result.vectors.shape[1])


def to_texts(numbers: Vectors | Quantized, encoding: Encoding) -> list[bytes]:
    """Each row as JSON: an array, or a string with base64 of its little-endian bytes."""
    if encoding is Encoding.LIST:
        # One call for all rows; nothing in a row of numbers looks like the end of one.
        inner = dump_rows(numbers)[1:-1]
        return [b"[%b]" % row for row in inner.split(b"],[")]
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return [b'"%b"' % b2a_base64(row, newline=False) for row in little]


def items(result: EmbedResult, formats: Sequence[VectorFormat]) -> Rows:
    """OpenAI's items: each with its vector, or with an object of the vector in several formats."""
    columns = [(format_, choose_numbers(result, format_.dtype)) for format_ in formats]

    def render(start: int, stop: int) -> bytes:
        texts = [to_texts(numbers[start:stop], format_.encoding) for format_, numbers in columns]
        if len(columns) == 1:
            values = texts[0]
        else:
            keys = [b'"%b":' % format_.key.encode() for format_, _ in columns]
            values = [
                b"{%b}" % b",".join(key + text for key, text in zip(keys, row, strict=True))
                for row in zip(*texts, strict=True)
            ]
        return b",".join(
            b'{"object":"embedding","embedding":%b,"index":%d}' % (value, index)
            for index, value in enumerate(values, start)
        )

    width = result.vectors.shape[1] * len(columns)
    return Rows(len(columns[0][1]), render, choose_step(width))


def shortest(score: float) -> float:
    """The number with the fewest digits that is the same float32."""
    return float(str(np.float32(score)))

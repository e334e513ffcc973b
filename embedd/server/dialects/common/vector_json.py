"""Vectors in the forms that were asked for, as JSON: lists of numbers, or base64 of the bytes."""

from binascii import b2a_base64
from collections.abc import Sequence

import numpy as np

from embedd.server.http.json_out import Rows, dump_rows
from embedd.types import DType, EmbedResult, Encoding, Quantized, VectorFormat, Vectors


def choose_numbers(result: EmbedResult, dtype: DType) -> Vectors | Quantized:
    """The result's vectors as *dtype*, one row per input."""
    return result.vectors if dtype is DType.FLOAT else result.quantized[dtype]


def column(result: EmbedResult, output: VectorFormat) -> Rows:
    """All vectors in one form."""
    numbers = choose_numbers(result, output.dtype)
    return Rows(
        len(numbers), lambda start, stop: b",".join(to_texts(numbers[start:stop], output.encoding))
    )


def to_texts(numbers: Vectors | Quantized, encoding: Encoding) -> list[bytes]:
    """Each row as JSON: an array, or a string with base64 of its little-endian bytes."""
    if encoding is Encoding.LIST:
        # One call for all rows; nothing in a row of numbers looks like the end of one.
        inner = dump_rows(numbers)[1:-1]
        return [b"[%b]" % row for row in inner.split(b"],[")]
    little = np.ascontiguousarray(numbers, numbers.dtype.newbyteorder("<"))
    return [b'"%b"' % b2a_base64(row, newline=False) for row in little]


def items(result: EmbedResult, outputs: Sequence[VectorFormat]) -> Rows:
    """OpenAI's items: each with its vector, or with an object of several forms of it."""
    columns = [(output, choose_numbers(result, output.dtype)) for output in outputs]

    def render(start: int, stop: int) -> bytes:
        texts = [to_texts(numbers[start:stop], output.encoding) for output, numbers in columns]
        if len(columns) == 1:
            values = texts[0]
        else:
            keys = [b'"%b":' % output.key.encode() for output, _ in columns]
            values = [
                b"{%b}" % b",".join(key + text for key, text in zip(keys, row, strict=True))
                for row in zip(*texts, strict=True)
            ]
        return b",".join(
            b'{"object":"embedding","embedding":%b,"index":%d}' % (value, index)
            for index, value in enumerate(values, start)
        )

    return Rows(len(result.vectors), render)

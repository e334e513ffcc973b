"""Token ids, and descriptions of tokens, as JSON in slices: a text may have millions."""

from collections.abc import Callable, Sequence
from typing import Final

from embedd.server.http.json_out import Parts, Rows, dump, dump_rows
from embedd.types import TokenIds

IDS_AT_A_TIME: Final = 8192  # rendered in less than a millisecond
TOKENS_AT_A_TIME: Final = 512  # rendered in about a millisecond
CHARACTERS_AT_A_TIME: Final = 1 << 18  # rendered in about a millisecond


def id_rows(ids: TokenIds) -> Rows:
    """The ids as numbers."""
    return Rows(len(ids), lambda start, stop: dump_rows(ids[start:stop]), IDS_AT_A_TIME)


def token_rows(count: int, describe: Callable[[slice], Sequence[object]]) -> Rows:
    """What *describe* returns for a slice of *count* tokens: structs or plain data."""
    return Rows(
        count, lambda start, stop: dump(describe(slice(start, stop)))[1:-1], TOKENS_AT_A_TIME
    )


def text_parts(text: str) -> Parts:
    """A text as a JSON string."""
    rows = Rows(
        len(text),
        lambda start, stop: dump(text[start:stop])[1:-1],
        CHARACTERS_AT_A_TIME,
        separator=b"",
    )
    return [b'"', rows, b'"'] if text else [b'""']

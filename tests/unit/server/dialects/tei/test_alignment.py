"""Places of tokens in a text: exact for tokenizers that keep all bytes, else found by search."""

import pytest

from embedd.server.dialects.tei.alignment import align
from embedd.types import TokenPiece

CLS = TokenPiece(b"[CLS]", is_special=True)


def pieces(*texts: str | bytes) -> list[TokenPiece]:
    return [TokenPiece(text.encode() if isinstance(text, str) else text, False) for text in texts]


@pytest.mark.parametrize(
    ("text", "tokens", "spans"),
    [
        ("", [CLS], [None]),
        ("ab c", [CLS, *pieces("ab", " c")], [None, (0, 2), (2, 4)]),
        ("ab c", pieces(" ab", " c"), [(0, 2), (2, 4)]),
        ("日", pieces(b"\xe6\x97", b"\xa5"), [(0, 2), (2, 3)]),
        ("Zürich 日本", pieces(" zurich", " 日", " 本"), [(0, 7), (8, 11), (11, 14)]),
        ("why not?", [CLS, *pieces(" why", " no", "t", " ?"), CLS],
         [None, (0, 3), (4, 6), (6, 7), (7, 8), None]),
        ("a ☃ b", pieces(" a", "[UNK]", " b"), [(0, 1), None, (6, 7)]),
        ("İx", pieces(" i", "x"), [(0, 2), (2, 3)]),
    ],
)  # fmt: skip
def test_the_place_of_a_token_is_that_of_its_letters(
    text: str, tokens: list[TokenPiece], spans: list[tuple[int, int] | None]
) -> None:
    assert align(text, tokens) == spans
